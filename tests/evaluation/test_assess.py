from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from lungtl.evaluation.assess import assess
from lungtl.evaluation.chosen import Chosen, choose
from tests.documents import check_document
from tests.evaluation.cohort import cohort


def bags(seed: int) -> pd.DataFrame:
    data = cohort(seed=seed)
    return pd.DataFrame(
        {
            "bag_id": [f"b{i:02d}" for i in range(len(data.labels))],
            "patient_id": data.patient_ids,
            "label": data.labels,
            "probability": data.probabilities,
        }
    )


TEST = bags(4)
CHOSEN = choose(bags(5), "temperature")


def slices() -> pd.DataFrame:
    """Three slices a bag, the middle one malignant in positive bags; the first bag's labels are unknown."""
    table = pd.concat(
        [
            pd.DataFrame(
                {"bag_id": bag_id, "index": range(3), "label": [0, 2 * label, 0], "weight": [0.2, 0.5, 0.3],
                 "p_malignant": [0.1, 0.1 + 0.8 * label, 0.2]}
            )
            for bag_id, label in zip(TEST["bag_id"], TEST["label"], strict=True)
        ]
    )  # fmt: skip
    return table.assign(label=table["label"].where(table["bag_id"] != "b00", -1))


def assessed(chosen: Chosen | None = CHOSEN, **options: Any) -> dict[str, Any]:
    return assess(
        TEST, slices(), split="test", chosen=chosen, resamples=50, **{
            "controls": {"prevalence": np.full(len(TEST), 0.4), "half": np.linspace(0, 1, len(TEST))},
            "groups": pd.DataFrame({"hospital": ["a", "b"] * 30}), **options,
        },
    )  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return assessed(store_name="s")


def test_it_follows_the_schema(document: dict[str, Any]) -> None:
    check_document(document)
    check_document(assessed(None, controls={}, groups=pd.DataFrame(index=range(60))))
    assert document["store_name"] == "s"


def test_calibrations_come_from_the_validation_bags(document: dict[str, Any]) -> None:
    assert document["chosen"] == json.loads(json.dumps(asdict(CHOSEN)))
    assert list(document["calibrated"]) == ["platt", "temperature", "isotonic"]
    for kind, fitted in CHOSEN.maps.items():
        expected = brier_score_loss(TEST["label"], fitted.apply(TEST["probability"]))
        assert document["calibrated"][kind]["metrics"]["brier"]["value"] == pytest.approx(expected)
    assert document["bag"]["metrics"]["brier"]["value"] == pytest.approx(
        brier_score_loss(TEST["label"], TEST["probability"])
    )


def test_the_operating_points_apply_validation_thresholds_to_these_bags(document: dict[str, Any]) -> None:
    assert set(document["operating_points"]) == set(CHOSEN.thresholds)
    threshold = CHOSEN.thresholds["specificity_90"]
    point = document["operating_points"]["specificity_90"]
    called = TEST["probability"] >= threshold
    assert point["threshold"] == threshold
    assert point["sensitivity"]["value"] == pytest.approx(called[TEST["label"] == 1].mean())
    assert point["specificity"]["value"] == pytest.approx((~called)[TEST["label"] == 0].mean())


def test_a_gain_is_the_difference_of_the_aurocs(document: dict[str, Any]) -> None:
    own = roc_auc_score(TEST["label"], TEST["probability"])
    other = roc_auc_score(TEST["label"], np.linspace(0, 1, len(TEST)))
    assert document["gains"]["half"]["difference"] == pytest.approx(own - other)
    assert document["gains"]["prevalence"]["difference"] == pytest.approx(own - 0.5)
    assert document["controls"]["half"]["metrics"]["auroc"]["value"] == pytest.approx(other)


def test_every_part_counts_its_own_rows(document: dict[str, Any]) -> None:
    n, positive = len(TEST), int(TEST["label"].sum())
    patients = TEST["patient_id"].nunique()
    tables = [document["bag"], *document["controls"].values(), *document["calibrated"].values()]
    assert {(table["n"], table["n_patients"], table["n_positive"]) for table in tables} == {(n, patients, positive)}
    known = TEST[TEST["bag_id"] != "b00"]
    assert (document["slice"]["n"], document["slice"]["n_positive"]) == (3 * len(known), int(known["label"].sum()))
    assert document["localisation"]["n"] == int(known["label"].sum())  # others have no nodule slice
    assert [(row["level"], row["n"]) for row in document["subgroups"]] == [("a", 30), ("b", 30)]
    assert document["localisation"]["rules"]["model"]["share"]["value"] == pytest.approx(0.5)


def test_without_chosen_no_calibration_and_no_operating_points() -> None:
    document = assessed(None)
    assert document["chosen"] is None
    assert document["calibrated"] == document["operating_points"] == {}


def test_calibration_and_thresholds_are_not_scored_on_their_own_bags() -> None:
    document = assessed(chose=True)
    check_document(document)
    assert document["calibrated"] == document["operating_points"] == {}
    assert document["chosen"] == json.loads(json.dumps(asdict(CHOSEN)))


def test_an_untrained_slice_head_is_not_scored() -> None:
    document = assessed(slices_trained=False)
    assert document["slice"] is None
    assert document["localisation"] is not None  # that is the aggregator's


def test_calibrations_that_cannot_be_fitted_are_omitted() -> None:
    one_class = choose(bags(5).assign(label=0), "temperature")
    document = assessed(one_class)
    check_document(document)
    assert document["calibrated"] == {}
    assert set(document["operating_points"].values()) == {None}
