"""What a model is, from its bundle: facts and test metrics for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lungtl.bundle import CARD_DATA
from lungtl.evaluation.formatting import HEADLINES, format_estimate, format_number
from lungtl.evaluation.page import Cell, Table
from lungtl.predict.models import NamedModel
from lungtl.predict.result import Decision
from lungtl.predict.scale import POINTS
from lungtl.runs.folder import read_json

CONTROLS = {"diameter": "nodule diameter alone", "untrained": "untrained backbone",
            "probe": "linear probe", "size_density": "diameter and density"}  # fmt: skip


@dataclass(frozen=True)
class About:
    """One model, for a reader."""

    name: str
    facts: Mapping[str, str]
    tested: str  # on how many cases; "" if its bundle has no test metrics
    metrics: Table | None
    points: Mapping[str, tuple[str, str]]  # operating point -> sensitivity and specificity in the test


def about(each: NamedModel) -> About:
    """What a bundle says of its model; of an ensemble, the members' test metrics are not those of their mean."""
    model, provenance = each.model, each.model.provenance
    choices: dict[str, Any] = provenance.get("choices") or {}
    network = f"ensemble of {len(model.networks)}" if model.members else str(model.config["backbone"]["name"])
    facts = {
        "trained on": str(provenance["store"]),
        "network": ", ".join([network, *(str(choices[key]) for key in ("freezing", "aggregator") if choices.get(key))]),
        "predicts": f"one probability of malignancy for each {model.unit}",
    }
    path = model.folder / CARD_DATA
    card = read_json(path) if path.is_file() else {}
    if card:
        facts |= {"label": str(card["label_rule"]), "data licence": str(card["licences"]["training_data"])}
    if len(card.get("scores", ())) != 1:
        return About(each.name, facts, "", None, {})
    (scores,) = card["scores"]
    points = {
        name: (format_estimate(point["sensitivity"]), format_estimate(point["specificity"]))
        for name, point in scores["operating_points"].items()
        if point is not None
    }
    tested = f"{scores['n']} {scores['split']} {model.unit}s, {scores['n_positive']} malignant"
    return About(each.name, facts, tested, _metrics(scores), points)


def _metrics(scores: Mapping[str, Any]) -> Table:
    """The model above its controls, of which the AUROC is known."""
    names = ("auroc", "auprc", "brier")

    def estimate(found: Mapping[str, Any] | None) -> Cell:
        return Cell(format_estimate(found), number=True)

    rows = [[Cell("model"), *(estimate(scores["metrics"][name]) for name in names)]]
    rows += [
        [Cell(CONTROLS.get(name, name)), estimate(auroc), *[Cell("")] * (len(names) - 1)]
        for name, auroc in scores["controls"].items()
        if name != "prevalence"
    ]
    return Table([Cell(""), *(Cell(HEADLINES[name], number=True) for name in names)], rows, sortable=False)


def decisions_table(each: About, decisions: Mapping[str, Decision | None]) -> Table | None:
    """The decisions of a model at its operating points, with what these achieved in the test if that is known."""
    rows = []
    for name, decision in decisions.items():
        if decision is None:
            continue
        verdict = "positive" if decision.positive else "negative"
        rates = each.points.get(name, ("", "")) if each.points else ()
        rows.append([Cell(POINTS.get(name, name)), Cell(format_number(decision.threshold), number=True), Cell(verdict),
                     *(Cell(rate, number=True) for rate in rates)])  # fmt: skip
    achieved = ("sensitivity", "specificity") if each.points else ()
    head = [Cell("chosen for"), Cell("threshold", number=True), Cell("decision"),
            *(Cell(f"{name} in the test", number=True) for name in achieved)]  # fmt: skip
    return Table(head, rows, sortable=False) if rows else None
