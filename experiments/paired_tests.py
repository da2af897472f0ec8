"""The paired tests of a study: image to measurements, pretrained weights to random ones, an option to another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd

from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.estimate import Difference
from lungtl.evaluation.formatting import format_estimate, format_p_value
from lungtl.evaluation.paired import holm

REFERENCES = {
    "scale": "image.crop_mm=null image.crop=48",
    "aggregators": "mean_max",
    "phantom_aggregators": "mean_max",
    "readers": "loss=bag_only",
    "transfer": "frozen",
    "ct_pretrained": "ct_resnet152",
}
"""Study -> the option that its settings are compared with, each on its own backbone."""

RANDOM = "backbone.weights=none"

Compare = Callable[[str], Difference | None]


def paired_tests(name: str, labels: Sequence[str], documents: Sequence[dict[str, Any]]) -> list[tuple[str, ...]]:
    """A header, and a row of differences of AUROCs for each setting: DeLong's test, patients as clusters.

    A cell is the difference with its interval, and a p-value that is Holm-corrected over the column. A test that no
    setting allows has no column. Frozen random weights are a control, like `untrained`, and have no row.

    Args:
        name: of the study.
        labels: of the settings, as on the page.
        documents: their pooled results, with `predictions` in any order of the cases.
    """
    tables = {
        label: document["predictions"].set_index("bag_id").sort_index()
        for label, document in zip(labels, documents, strict=True)
    }

    def over_diameter(label: str) -> Difference:
        diameter = tables[label]["diameter_mm"].astype(float)
        return difference(tables[label]["probability"], diameter / (1 + diameter.max()), tables[label])

    def over_random(label: str) -> Difference | None:
        table, other = tables[label], random_counterpart(label, labels)
        if other is None and "control_untrained" not in table:
            return None
        random = table["control_untrained"] if other is None else tables[other]["probability"]
        return difference(table["probability"], random, table)

    def over_reference(label: str) -> Difference | None:
        other = reference_of(name, label, labels)
        if other is None:
            return None
        return difference(tables[label]["probability"], tables[other]["probability"], tables[label])

    def over_measurements(label: str) -> Difference | None:
        table = tables[label]
        if not {"probability_with_covariates", "control_size_density"} <= set(table):
            return None
        return difference(table["probability_with_covariates"], table["control_size_density"], table)

    columns: dict[str, Compare] = {
        "image above the diameter": over_diameter,
        "pretrained weights above random ones": over_random,
        f"above `{REFERENCES.get(name)}`": over_reference,
        "image and measurements above size and density": over_measurements,
    }
    tested = [label for label in labels if RANDOM not in label.split()]
    cells = {title: corrected([compare(label) for label in tested]) for title, compare in columns.items()}
    cells = {title: column for title, column in cells.items() if any(column)}
    return [("setting", *cells), *zip(tested, *cells.values(), strict=True)]


def difference(first: pd.Series[float], second: pd.Series[float], cases: pd.DataFrame) -> Difference:
    """The AUROC of a first prediction of these cases minus that of a second one."""
    if not first.index.equals(second.index):
        raise ValueError(f"a paired test of {len(first)} and {len(second)} cases; expected the same cases")
    return compare_aurocs(cases["label"], first, second, cases["patient_id"])


def reference_of(name: str, label: str, labels: Sequence[str]) -> str | None:
    """The setting that a study compares this one with; None where there is none or it is the reference itself."""
    reference = REFERENCES.get(name)
    if reference is None:
        return None
    other = reference if reference in labels else f"{label.split()[0]} {reference}"
    return None if other == label else other


def random_counterpart(label: str, labels: Sequence[str]) -> str | None:
    """The setting of the same study that starts from random weights instead of ImageNet's."""
    words = label.split()
    frozen, trained = {*words} | {RANDOM}, {"from_scratch" if word == "full" else word for word in words}
    others = {other: {*other.split()} for other in labels if other != label}
    return next((other for other, own in others.items() if own in (frozen, trained)), None)


def corrected(differences: Sequence[Difference | None]) -> list[str]:
    """The cells of a column; empty where there is no test."""
    p_values = holm([None if each is None else each.p_value for each in differences])
    return [
        ""
        if each is None
        else format_estimate(each.estimate, signed=True, reasons=True)
        + ("" if p_value is None else f", p {format_p_value(p_value)}")
        for each, p_value in zip(differences, p_values, strict=True)
    ]
