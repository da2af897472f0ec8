"""metrics.json: what an evaluation of one set of bags looks like on disk, in tables and in a tracker.

`lungtl.evaluation.schema` has every key and its type, docs/metrics.md says them in words. It is plain JSON without
NaN: a number that is undefined is null, and then `undefined` beside it says why.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lungtl.evaluation.metrics import METRICS, ScoreTable
from lungtl.evaluation.schema import SCHEMA
from lungtl.settings.errors import LungtlError

Document = dict[str, Any]
Rows = list[tuple[str, ...]]

INTERVALS = "95 % intervals: bootstrap over patients; DeLong's where named and for gains; exact for rates of 0 and 1"
"""What stands beside the tables."""

SHOWN_CALIBRATED = ("brier", "calibration_error")
"""What a calibration is for; it leaves rankings as they are, or nearly so."""


def evaluation_document(
    *,
    split: str,
    bag: ScoreTable,
    slices: ScoreTable | None = None,
    controls: Mapping[str, ScoreTable] | None = None,
    calibrated: Mapping[str, ScoreTable] | None = None,
    gains: Mapping[str, Any] | None = None,
    chosen: Mapping[str, Any] | None = None,
    operating_points: Mapping[str, Any] | None = None,
    subgroups: Sequence[Mapping[str, Any]] = (),
    localisation: Mapping[str, Any] | None = None,
    **context: Any,
) -> Document:
    """Assemble what goes into metrics.json.

    Args:
        split: "val", "test", ...
        bag: the model's scores a bag.
        slices: its scores a slice; None where slices were not scored.
        controls: the trivial predictors' scores on the same bags.
        calibrated: kind of calibration -> the model's scores after it.
        gains: control -> the model's AUROC less the control's.
        chosen: calibration and thresholds, chosen on validation bags.
        operating_points: name -> decisions at the threshold chosen for it; None where there is none.
        subgroups: scores of parts of the bags.
        localisation: how much of the aggregator's weight falls on true nodule slices.
        **context: further top-level keys, JSON values.

    Returns:
        A dict that `json.dumps(..., allow_nan=False)` takes.

    Raises:
        LungtlError: when a context key takes a name of the schema or its value is not JSON.
    """
    document: Document = {
        "schema": SCHEMA,
        "split": split,
        "bag": bag.to_dict(),
        "calibrated": {kind: table.to_dict() for kind, table in (calibrated or {}).items()},
        "slice": slices.to_dict() if slices is not None else None,
        "controls": {name: table.to_dict() for name, table in (controls or {}).items()},
        "gains": dict(gains or {}),
        "chosen": chosen,
        "operating_points": dict(operating_points or {}),
        "subgroups": list(subgroups),
        "localisation": localisation,
    }
    for key, value in context.items():
        if key in document:
            raise LungtlError(f"context key {key!r} belongs to the schema of metrics.json; choose another name")
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise LungtlError(
                f"context key {key!r} of metrics.json is not JSON ({error}); give plain values, None for NaN"
            ) from error
        document[key] = value
    return document


def rows_for_table(document: Document, level: Literal["bag", "slice"] = "bag") -> Rows:
    """Format a document's metrics as text cells.

    Args:
        document: of `evaluation_document`, or read back from metrics.json.
        level: "bag" (model and controls side by side) or "slice" (the model alone; no rows when not scored).

    Returns:
        The header ("metric", "model", each control), then one row a metric with cells such as
        "0.873 [0.810, 0.920]", "0.873 (no interval: only one patient)" or
        "undefined: only one class: 0 of 12 positive". For bags: DeLong's interval and the model's gain over each
        control after the AUROC, the calibrated model after what calibration is to better.
    """
    if document[level] is None:
        return []
    columns = {"model": document[level]} | (document["controls"] if level == "bag" else {})
    rows: Rows = [("metric", *columns)]
    for name in METRICS:
        rows.append((name, *(_cell(table["metrics"][name]) for table in columns.values())))
        if name == "auroc" and level == "bag":
            rows.append(("auroc (DeLong)", *(_cell(table["auroc_delong"]) for table in columns.values())))
            rows += _gain_rows(document)
        if name in SHOWN_CALIBRATED and level == "bag":
            blank = [""] * (len(columns) - 1)
            rows += [
                (f"{name}, {kind}", _cell(table["metrics"][name]), *blank)
                for kind, table in document["calibrated"].items()
            ]
    return rows


def rows_of_points(document: Document) -> Rows:
    """Format the operating points: a header, then a row a point; no rows where none were chosen."""
    points = document["operating_points"]
    if not points:
        return []
    names = ("sensitivity", "specificity", "ppv", "npv")
    rows: Rows = [("chosen on validation for", "threshold", *names)]
    for name, point in points.items():
        cells = ["not reached", *[""] * len(names)]
        if point is not None:
            cells = [f"{point['threshold']:.3f}", *(_cell(point[metric]) for metric in names)]
        rows.append((name, *cells))
    return rows


def rows_of_localisation(document: Document) -> Rows:
    """Format the localisation: a header, then a row a measure; no rows where weights were not compared."""
    found = document["localisation"]
    if found is None:
        return []
    columns = found["rules"] | {f"model less {rule}": table for rule, table in found["gains"].items()}
    names = {"share": "weight on nodule slices", "average_precision": "average precision"}
    rows: Rows = [("slices by weight", *columns)]
    rows += [(shown, *(_cell(table[name]) for table in columns.values())) for name, shown in names.items()]
    return rows


def markdown_table(rows: Rows) -> list[str]:
    """The lines of a Markdown table, its header first; none for no rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [*lines[:1], "|" + " --- |" * len(rows[0]), *lines[1:]] if rows else []


def flat_metrics(document: Document) -> dict[str, float]:
    """Flatten a document for a tracker, leaving out what is undefined, and the subgroups (a table of their own).

    Args:
        document: of `evaluation_document`, or read back from metrics.json.

    Returns:
        "test/bag/auroc", "test/bag/auroc_low", "test/bag/auroc_high", "test/bag/auroc_delong_low", "test/slice/...",
        "test/calibrated/platt/ece", "test/control/diameter/auroc", "test/gain/diameter/auroc",
        "test/point/specificity_95/sensitivity", "test/localisation/model/share", "test/localisation/gain/centre/share",
        ... -> a finite number.
    """
    split = document["split"]
    tables = {f"{split}/bag": document["bag"], f"{split}/slice": document["slice"]}
    tables |= {f"{split}/calibrated/{kind}": table for kind, table in document["calibrated"].items()}
    tables |= {f"{split}/control/{name}": table for name, table in document["controls"].items()}
    estimates = {
        f"{prefix}/{name}": one
        for prefix, table in tables.items()
        for name, one in (_with_delong(table) if table else {}).items()
    }
    estimates |= {
        f"{split}/gain/{name}/auroc": gain | {"value": gain["difference"]} for name, gain in document["gains"].items()
    }
    for name, point in document["operating_points"].items():
        found = {} if point is None else point
        estimates |= {f"{split}/point/{name}/{key}": one for key, one in found.items() if isinstance(one, dict)}
    if weights := document["localisation"]:
        rules = weights["rules"] | {f"gain/{rule}": measures for rule, measures in weights["gains"].items()}
        for rule, measures in rules.items():
            estimates |= {f"{split}/localisation/{rule}/{key}": one for key, one in measures.items()}
    return {
        f"{name}{suffix}": float(estimate[part])
        for name, estimate in estimates.items()
        for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high"), ("p_value", "_p"))
        if estimate.get(part) is not None and math.isfinite(estimate[part])
    }


def _with_delong(table: Mapping[str, Any]) -> dict[str, Any]:
    delong = table["auroc_delong"]
    return {**table["metrics"], **({"auroc_delong": delong} if delong else {})}


def _gain_rows(document: Document) -> Rows:
    """What the AUROC of the model is above that of each control, and how likely no difference would show as much."""
    if not document["gains"]:
        return []
    gains = [document["gains"][name] for name in document["controls"]]
    return [
        ("auroc, model's gain", "", *(_cell({**gain, "value": gain["difference"]}) for gain in gains)),
        ("p-value of the gain, unadjusted", "", *(_p_value(gain["p_value"]) for gain in gains)),
    ]


def _p_value(p: float | None) -> str:
    if p is None:
        return ""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cell(estimate: Mapping[str, Any] | None) -> str:
    if estimate is None:
        return ""
    if estimate["value"] is None:
        return f"undefined: {estimate['undefined']}"
    value = f"{estimate['value']:.3f}"
    if estimate["low"] is None:
        return f"{value} ({estimate['undefined']})"
    return f"{value} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
