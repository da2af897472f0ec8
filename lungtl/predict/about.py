"""What a model is, from its bundle and its run: facts and test metrics for the page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lungtl.evaluation.formatting import HEADLINES, format_estimate, format_number
from lungtl.evaluation.page import Cell, Table
from lungtl.predict.models import NamedModel
from lungtl.predict.scale import POINTS
from lungtl.runs.folder import METRICS, read_json

CONTROLS = {"prevalence": "prevalence", "diameter": "nodule diameter alone", "untrained": "untrained backbone",
            "probe": "linear probe", "size_density": "diameter and density"}  # fmt: skip


@dataclass(frozen=True)
class About:
    """One model, for a reader."""

    name: str
    facts: Mapping[str, str]
    tested: str  # on how many cases; "" if its test metrics are unknown
    metrics: Table | None
    points: Mapping[str, tuple[str, str]]  # operating point -> sensitivity and specificity on the test split


def about(each: NamedModel) -> About:
    """Read what is known of a model."""
    model, provenance = each.model, each.model.provenance
    choices: dict[str, Any] = provenance.get("choices") or {}
    network = f"ensemble of {len(model.networks)}" if model.members else str(model.config["backbone"]["name"])
    facts = {
        "trained on": str(provenance["store"]),
        "network": ", ".join([network, *(str(choices[key]) for key in ("freezing", "aggregator") if choices.get(key))]),
        "predicts": f"one probability of malignancy for each {model.unit}",
    }
    document = _metrics(each)
    if document is None:
        return About(each.name, facts, "", None, {})
    bag = document["bag"]
    tested = (
        f"{bag['n']} {document['split']} {model.unit}s of {bag['n_patients']} patients, {bag['n_positive']} malignant"
    )
    points = {
        name: (format_estimate(point["sensitivity"]), format_estimate(point["specificity"]))
        for name, point in document["operating_points"].items()
        if point is not None
    }
    return About(each.name, facts, tested, _table(document), points)


def _metrics(each: NamedModel) -> dict[str, Any] | None:
    path = each.model.folder.parent / METRICS
    return read_json(path) if path.is_file() else None


def _table(document: Mapping[str, Any]) -> Table:
    columns = {"model": document["bag"]} | {
        CONTROLS.get(name, name): table for name, table in document["controls"].items() if name != "prevalence"
    }
    names = ("auroc", "auprc", "brier")
    head = [Cell(""), *(Cell(name, number=True) for name in columns)]
    rows = [
        [Cell(HEADLINES[name]), *(Cell(format_estimate(table["metrics"][name], separator="\n"), number=True)
                                  for table in columns.values())]
        for name in names
    ]  # fmt: skip
    return Table(head, rows, sortable=False)


def decisions_table(each: About, decisions: Mapping[str, Any]) -> Table | None:
    """The decisions of a model at its operating points, with what these achieved on its test cases."""
    rows = []
    for name, decision in decisions.items():
        if decision is None:
            continue
        rates = each.points.get(name, ("", ""))
        verdict = "positive" if decision.positive else "negative"
        rows.append([Cell(POINTS.get(name, name)), Cell(format_number(decision.threshold), number=True), Cell(verdict),
                     *(Cell(rate, number=True) for rate in rates)])  # fmt: skip
    head = [Cell("threshold chosen for"), Cell("threshold", number=True), Cell("decision"),
            Cell("sensitivity", number=True), Cell("specificity", number=True)]  # fmt: skip
    return Table(head, rows, sortable=False) if rows else None
