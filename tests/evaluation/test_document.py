from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from lungtl.evaluation.document import (
    Document,
    Localisation,
    OperatingPoint,
    ScoreTable,
    evaluation_document,
    flat_metrics,
    main_metrics,
)
from lungtl.evaluation.estimate import DelongAuroc, Difference, Estimate
from lungtl.evaluation.formatting import (
    format_amount,
    format_estimate,
    format_mean_sd,
    format_p_value,
    markdown_table,
    rows_for_table,
    rows_of_localisation,
    rows_of_points,
)
from lungtl.evaluation.weighted import METRICS
from lungtl.settings.errors import LungtlError
from tests.documents import check_document

ENDS = ("", "_low", "_high")


def table(estimate: Estimate, delong: DelongAuroc | None = None, n: int = 12) -> ScoreTable:
    return ScoreTable(n, n, 0, 0.5, dict.fromkeys(METRICS, estimate), delong)


SURE = table(Estimate(0.8734, 0.8101, 0.92), DelongAuroc(0.8734, 0.79, 0.93, standard_error=0.03))
ONE_PATIENT = table(Estimate(0.5, undefined="no interval: only one patient"))
ONE_CLASS = table(Estimate(None, undefined="only one class: 0 of 12 positive"))
RATE = Estimate(0.75, 0.5, 0.9)


def example(**parts: Any) -> Document:
    return evaluation_document(
        split="test",
        bag=SURE,
        controls={"prevalence": ONE_PATIENT, "diameter": ONE_CLASS},
        run="r1",
        fingerprints={"store": "ab12"},
        **parts,
    )


POINT = OperatingPoint(0.41, RATE, RATE, RATE, RATE)
GAIN = Difference(0.37, 0.3, 0.44, 0.00012)
NO_GAIN = Difference(None, undefined="only one class")
PLACES = Localisation(
    n=3, n_patients=3, n_slices=30, n_nodule_slices=9,
    rules={
        "model": {"share": RATE, "average_precision": RATE},
        "centre": {"share": Estimate(0.6, 0.5, 0.9), "average_precision": RATE},
    },
    gains={"centre": {"share": Estimate(0.15, 0.1, 0.9), "average_precision": RATE}},
)  # fmt: skip
FULL: dict[str, Any] = {
    "calibrated": {"temperature": SURE},
    "gains": {"prevalence": GAIN, "diameter": NO_GAIN},
    "operating_points": {"specificity_95": POINT, "sensitivity_95": None},
    "localisation": PLACES,
}


def test_the_document_survives_json_and_follows_the_schema() -> None:
    document = example(**FULL)
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    check_document(document)
    assert (document["schema"], document["split"], document["slice"]) == (2, "test", None)
    auroc = {"value": 0.8734, "low": 0.8101, "high": 0.92, "undefined": None}
    assert document["bag"]["metrics"]["auroc"] == auroc
    assert list(document["bag"]) == ["n", "n_patients", "n_positive", "threshold", "metrics", "auroc_delong"]
    assert document["gains"]["diameter"] == {
        "difference": None, "low": None, "high": None, "p_value": None, "undefined": "only one class"
    }  # fmt: skip
    assert document["bag"]["auroc_delong"]["standard_error"] == 0.03
    assert document["controls"]["diameter"]["metrics"]["auroc"]["value"] is None
    assert (document["run"], document["fingerprints"]) == ("r1", {"store": "ab12"})


def test_slices_are_included_when_scored() -> None:
    document = evaluation_document(split="val", bag=SURE, slice=ONE_PATIENT)
    check_document(document)
    assert document["slice"]["metrics"]["f1"] == {
        "value": 0.5, "low": None, "high": None, "undefined": "no interval: only one patient"
    }  # fmt: skip
    assert document["controls"] == {}


@pytest.mark.parametrize(
    ("context", "message"),
    [
        ({"loss": float("nan")}, "'loss' of metrics.json is not JSON"),
        ({"path": object()}, "'path' of metrics.json is not JSON"),
    ],
)
def test_values_that_are_not_json_are_refused(context: dict[str, Any], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        evaluation_document(split="test", bag=SURE, **context)


@pytest.mark.parametrize(
    "estimate",
    [
        {"value": None, "low": None, "high": None, "undefined": None},  # no reason
        {"value": 0.5, "low": None, "high": None, "undefined": None},
        {"value": 0.5, "low": 0.4, "high": 0.6, "undefined": "a reason for nothing"},
        {"value": 0.5, "low": 0.4, "high": None, "undefined": "half an interval"},
        {"value": float("nan"), "low": 0.4, "high": 0.6, "undefined": None},
        {"value": "0.5", "low": 0.4, "high": 0.6, "undefined": None},
    ],
)
def test_a_missing_interval_needs_a_reason(estimate: dict[str, Any]) -> None:
    document = example()
    document["bag"]["metrics"]["auroc"] = estimate
    with pytest.raises(ValidationError, match="auroc"):
        check_document(document)


def test_fields_follow_the_schema() -> None:
    cases: tuple[dict[str, Any], ...] = ({"slice": {}}, {"schema": 3}, {"calibrated": {"beta": SURE}})
    for parts in cases:
        with pytest.raises(ValidationError, match=next(iter(parts))):
            evaluation_document(split="test", bag=SURE, **parts)


@pytest.mark.parametrize("key", ["split", "bag", "schema"])
def test_missing_keys_are_refused(key: str) -> None:
    document = example()
    del document[key]
    with pytest.raises(ValidationError, match=key):
        check_document(document)


def test_the_table_has_one_column_per_control() -> None:
    rows = rows_for_table(example())
    assert rows[0] == ("metric", "model", "prevalence", "diameter")
    assert rows[1][1:] == (
        "0.873 [0.810, 0.920]",
        "0.500 (no interval: only one patient)",
        "undefined: only one class: 0 of 12 positive",
    )
    assert rows[2] == ("auroc (DeLong)", "0.873 [0.790, 0.930]", "", "")
    assert [row[0] for row in rows[1:] if "DeLong" not in row[0]] == list(METRICS)


def test_gains_and_calibrations_follow_their_metric() -> None:
    rows = rows_for_table(example(**FULL))
    names = [row[0] for row in rows]
    assert all(len(row) == 4 for row in rows)
    gain = names.index("auroc, model's gain")
    assert rows[gain][1:] == ("", "0.370 [0.300, 0.440]", "undefined: only one class")
    assert rows[gain + 1] == ("p-value of the gain, unadjusted", "", "< 0.001", "")
    assert rows[names.index("brier") + 1] == ("brier, temperature", "0.873 [0.810, 0.920]", "", "")


def test_operating_points_have_their_own_table() -> None:
    header, reached, missed = rows_of_points(example(**FULL))
    assert header == ("chosen on validation for", "threshold", "sensitivity", "specificity", "ppv", "npv")
    assert reached == ("specificity_95", "0.410", *["0.750 [0.500, 0.900]"] * 4)
    assert missed == ("sensitivity_95", "not reached", "", "", "", "")
    assert rows_of_points(example()) == []


def test_localisation_table() -> None:
    assert rows_of_localisation(example(**FULL)) == [
        ("slices by weight", "model", "centre", "model minus centre"),
        ("weight on nodule slices", "0.750 [0.500, 0.900]", "0.600 [0.500, 0.900]", "0.150 [0.100, 0.900]"),
        ("average precision", *["0.750 [0.500, 0.900]"] * 3),
    ]
    assert rows_of_localisation(example()) == []


def test_markdown_table() -> None:
    assert markdown_table([("a", "b"), ("1", "2")]) == ["| a | b |", "| --- | --- |", "| 1 | 2 |"]
    assert markdown_table([]) == []
    assert markdown_table([("a|b",)])[0] == r"| a\|b |"


def test_numbers_as_text() -> None:
    whole = Estimate(0.8456, 0.7041, 0.958, sd=0.0221)
    assert format_estimate(whole) == "0.846 ± 0.022 [0.704, 0.958]"
    assert format_estimate(whole, signed=True, separator="\n") == "+0.846 ± 0.022\n[+0.704, +0.958]"
    assert format_estimate(Estimate(-0.0001, undefined="why"), signed=True) == "+0.000"
    missing = Estimate(None, undefined="only one class")
    assert (format_estimate(missing), format_estimate(missing, reasons=True)) == (
        "undefined", "undefined: only one class"
    )  # fmt: skip
    assert format_estimate(None) == ""
    assert [format_p_value(p) for p in (None, 0.0004, 0.0421)] == ["", "< 0.001", "0.042"]
    assert [format_amount(n) for n in (None, 121476.0, 12.4, 3.0, 3.46)] == ["", "121,476", "12", "3", "3.5"]
    assert [format_mean_sd(v) for v in ([None], [0.5], [0.5, None, 0.7])] == ["undefined", "0.500", "0.600 ± 0.141"]


def test_a_gain_without_a_p_value_keeps_its_interval_in_the_table() -> None:
    gains = {"prevalence": Difference(0.1, 0.05, 0.15, undefined="no p-value: folds"), "diameter": NO_GAIN}
    rows = rows_for_table(example(gains=gains))
    (gain,) = [row for row in rows if row[0] == "auroc, model's gain"]
    assert gain[2] == "0.100 [0.050, 0.150]"


def test_training_may_give_the_validation_auroc() -> None:
    training = {"epochs": 3, "best_epoch": 1, "val/loss": 0.5, "val_auroc": None}
    assert example(training=training)["training"] == training
    with pytest.raises(ValidationError, match="val_auroc"):
        example(training=training | {"val_auroc": 1.5})


def test_flat_metrics_contain_only_defined_numbers() -> None:
    flat = flat_metrics(example())
    assert flat["test/bag/auroc"] == 0.8734
    assert flat["test/bag/auroc_low"] == 0.8101
    assert flat["test/bag/auroc_high"] == 0.92
    assert flat["test/bag/auroc_delong_high"] == 0.93
    assert flat["test/controls/prevalence/f1"] == 0.5
    assert set(flat) == {
        *(f"test/bag/{name}{end}" for name in (*METRICS, "auroc_delong") for end in ENDS),
        *(f"test/controls/prevalence/{name}" for name in METRICS),
    }


def test_flat_metrics_contain_every_part() -> None:
    flat = flat_metrics(example(**FULL))
    assert {name: value for name, value in flat.items() if name.startswith("test/gains/")} == {
        "test/gains/prevalence": 0.37,
        "test/gains/prevalence_low": 0.3,
        "test/gains/prevalence_high": 0.44,
        "test/gains/prevalence_p_value": 0.00012,
    }
    assert flat["test/operating_points/specificity_95/sensitivity_low"] == 0.5
    assert not [name for name in flat if "sensitivity_95/" in name]
    assert flat["test/localisation/rules/centre/share"] == 0.6
    assert flat["test/localisation/gains/centre/share_low"] == 0.1
    assert flat["test/calibrated/temperature/ece_high"] == 0.92


def test_slice_metrics_have_their_own_names() -> None:
    flat = flat_metrics(evaluation_document(split="val", bag=ONE_CLASS, slice=SURE))
    assert {name for name in flat if "delong" not in name} == {
        f"val/slice/{name}{end}" for name in METRICS for end in ENDS
    }


def test_a_tracker_gets_a_handful_of_defined_numbers() -> None:
    found = main_metrics(example(**FULL))
    names = ("auroc", "auprc", "sensitivity", "specificity", "brier")
    assert set(found) == {*(f"test/bag/{name}" for name in names), "test/control/prevalence/auroc"}
    assert found["test/bag/auroc"] == 0.8734
    assert found["test/control/prevalence/auroc"] == 0.5


def test_what_is_undefined_is_not_tracked() -> None:
    assert "val/bag/auroc" not in main_metrics(evaluation_document(split="val", bag=ONE_CLASS))
