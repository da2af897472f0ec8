from __future__ import annotations

import json
from typing import Any

import pytest

from lungtl.errors import LungtlError
from lungtl.evaluation.metrics import METRICS, Estimate, ScoreTable
from lungtl.evaluation.schema import Document, evaluation_document, flat_metrics, rows_for_table


def table(estimate: Estimate, n: int = 12) -> ScoreTable:
    return ScoreTable(n, n, 0, 0.5, dict.fromkeys(METRICS, estimate))


SURE = table(Estimate(0.8734, 0.8101, 0.92))
ONE_PATIENT = table(Estimate(0.5, undefined="no interval: only one patient"))
ONE_CLASS = table(Estimate(None, undefined="only one class: 0 of 12 positive"))


def example() -> Document:
    return evaluation_document(
        split="test",
        bag=SURE,
        controls={"prevalence": ONE_PATIENT, "diameter": ONE_CLASS},
        run="r1",
        fingerprints={"store": "ab12"},
    )


def test_the_document_survives_json_and_holds_what_the_schema_says() -> None:
    document = example()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert list(document) == ["schema", "split", "bag", "slice", "controls", "run", "fingerprints"]
    assert (document["schema"], document["split"], document["slice"]) == (1, "test", None)
    assert document["bag"] == SURE.to_dict()
    assert document["controls"]["diameter"]["metrics"]["auroc"]["value"] is None


def test_slices_are_part_of_it_when_scored() -> None:
    document = evaluation_document(split="val", bag=SURE, slices=ONE_PATIENT)
    assert document["slice"] == ONE_PATIENT.to_dict()
    assert document["controls"] == {}


@pytest.mark.parametrize(
    ("context", "said"),
    [
        ({"schema": 2}, "'schema' belongs to the schema"),
        ({"slice": {}}, "'slice' belongs to the schema"),
        ({"loss": float("nan")}, "'loss' of metrics.json is not JSON"),
        ({"path": object()}, "'path' of metrics.json is not JSON"),
    ],
)
def test_context_that_would_break_the_file_is_refused(context: dict[str, Any], said: str) -> None:
    with pytest.raises(LungtlError, match=said):
        evaluation_document(split="test", bag=SURE, **context)


def test_the_table_puts_the_controls_beside_the_model() -> None:
    rows = rows_for_table(example())
    assert rows[0] == ("metric", "model", "prevalence", "diameter")
    assert [row[0] for row in rows[1:]] == list(METRICS)
    assert rows[1][1:] == (
        "0.873 [0.810, 0.920]",
        "0.500 (no interval: only one patient)",
        "undefined: only one class: 0 of 12 positive",
    )


def test_the_slice_table_has_the_model_alone_or_no_rows() -> None:
    assert rows_for_table(example(), "slice") == []
    rows = rows_for_table(evaluation_document(split="val", bag=ONE_CLASS, slices=SURE), "slice")
    assert rows[:2] == [("metric", "model"), ("auroc", "0.873 [0.810, 0.920]")]


def test_trackers_get_the_defined_numbers_only() -> None:
    flat = flat_metrics(example())
    assert flat["test/bag/auroc"] == 0.8734
    assert flat["test/bag/auroc_low"] == 0.8101
    assert flat["test/bag/auroc_high"] == 0.92
    assert flat["test/control/prevalence/f1"] == 0.5
    assert set(flat) == {
        *(f"test/bag/{name}{end}" for name in METRICS for end in ("", "_low", "_high")),
        *(f"test/control/prevalence/{name}" for name in METRICS),
    }


def test_slice_metrics_have_their_own_names() -> None:
    flat = flat_metrics(evaluation_document(split="val", bag=ONE_CLASS, slices=SURE))
    assert set(flat) == {f"val/slice/{name}{end}" for name in METRICS for end in ("", "_low", "_high")}
