"""metrics.json: what a run's evaluation of one split looks like on disk, in a table and in a tracker.

Schema 1, all of it plain JSON without NaN::

    {
      "schema": 1,
      "split": "test",
      "bag": TABLE,                     the model, one row a bag
      "slice": TABLE or null,           the model, one row a slice with a known label
      "controls": {"prevalence": TABLE, "diameter": TABLE},      on the same bags; a control may be missing
      ...                               the caller's own keys: fingerprints, seed, names
    }

    TABLE    = {"n", "n_patients", "n_positive", "threshold", "metrics": {name in METRICS: ESTIMATE}}
    ESTIMATE = {"value", "low", "high", "undefined"}

`low` and `high` are the 95 % interval from resampling patients. A number that is undefined is null, and then
`undefined` says why; it is null when value, low and high are there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any, Literal

from lungtl.errors import LungtlError
from lungtl.evaluation.metrics import METRICS, ScoreTable

SCHEMA = 1
"""Raised whenever a reader of older files would misread a newer one."""

Document = dict[str, Any]


def evaluation_document(
    *,
    split: str,
    bag: ScoreTable,
    slices: ScoreTable | None = None,
    controls: Mapping[str, ScoreTable] | None = None,
    **context: Any,
) -> Document:
    """Assemble what goes into metrics.json; the schema stands at the head of this module.

    Args:
        split: "val", "test", ...
        bag: the model's scores a bag.
        slices: its scores a slice; None where slices were not scored.
        controls: the trivial predictors' scores on the same bags.
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
        "slice": slices.to_dict() if slices is not None else None,
        "controls": {name: table.to_dict() for name, table in (controls or {}).items()},
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


def rows_for_table(document: Document, level: Literal["bag", "slice"] = "bag") -> list[tuple[str, ...]]:
    """Format a document as text cells.

    Args:
        document: of `evaluation_document`, or read back from metrics.json.
        level: "bag" (model and controls side by side) or "slice" (the model alone; no rows when not scored).

    Returns:
        The header ("metric", "model", each control), then one row a metric with cells such as
        "0.873 [0.810, 0.920]", "0.873 (no interval: only one patient)" or
        "undefined: only one class: 0 of 12 positive".
    """
    if document[level] is None:
        return []
    columns = {"model": document[level]} | (document["controls"] if level == "bag" else {})
    rows: list[tuple[str, ...]] = [("metric", *columns)]
    for name in METRICS:
        rows.append((name, *(_cell(table["metrics"][name]) for table in columns.values())))
    return rows


def flat_metrics(document: Document) -> dict[str, float]:
    """Flatten a document for a tracker, leaving out what is undefined.

    Args:
        document: of `evaluation_document`, or read back from metrics.json.

    Returns:
        "test/bag/auroc", "test/bag/auroc_low", "test/bag/auroc_high", "test/slice/...",
        "test/control/diameter/auroc", ... -> a finite number.
    """
    split = document["split"]
    tables = {f"{split}/bag": document["bag"], f"{split}/slice": document["slice"]}
    tables |= {f"{split}/control/{name}": table for name, table in document["controls"].items()}
    flat: dict[str, float] = {}
    for prefix, table in tables.items():
        for name, estimate in (table["metrics"] if table else {}).items():
            for part, suffix in (("value", ""), ("low", "_low"), ("high", "_high")):
                number = estimate[part]
                if number is not None and math.isfinite(number):
                    flat[f"{prefix}/{name}{suffix}"] = float(number)
    return flat


def _cell(estimate: Mapping[str, Any]) -> str:
    if estimate["value"] is None:
        return f"undefined: {estimate['undefined']}"
    value = f"{estimate['value']:.3f}"
    if estimate["low"] is None:
        return f"{value} ({estimate['undefined']})"
    return f"{value} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
