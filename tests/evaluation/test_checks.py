from __future__ import annotations

import numpy as np
import pytest

from lungtl.evaluation.checks import check_labels, check_probabilities, check_threshold, patient_codes
from lungtl.settings.errors import LungtlError


def test_non_binary_labels_are_reported_with_value_and_count() -> None:
    with pytest.raises(LungtlError, match=r"labels contain -1 \(2 of 4 .*omit rows"):
        check_labels([0, -1, 1, -1])


@pytest.mark.parametrize(("labels", "message"), [([], "are empty"), ([[0, 1]], r"shape \(1, 2\)")])
def test_labels_of_wrong_shape_are_refused(labels: list[object], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        check_labels(labels)  # type: ignore[arg-type]


def test_boolean_labels_are_accepted() -> None:
    np.testing.assert_array_equal(check_labels([True, False]), [1, 0])


@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        ([0.1, np.nan], "1 of 2 probabilities are NaN"),
        ([0.1, 2.5], r"contain 2.5 \(1 of 2 .*sigmoid"),
        ([-0.5, 0.1], "contain -0.5"),
        ([np.inf, 0.1], "contain inf"),
        ([0.1], r"shape \(1,\), labels \(2,\)"),
    ],
)
def test_invalid_probabilities_are_refused(probabilities: list[float], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        check_probabilities(probabilities, 2)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_unit_interval_is_refused(threshold: float) -> None:
    with pytest.raises(LungtlError, match="threshold is"):
        check_threshold(threshold)


def test_patients_are_numbered_by_id_not_by_row() -> None:
    np.testing.assert_array_equal(patient_codes(["c", "a", "c", "b"], 4), [2, 0, 2, 1])


@pytest.mark.parametrize("missing", [None, float("nan"), ""])
def test_a_missing_patient_id_is_refused(missing: object) -> None:
    with pytest.raises(LungtlError, match="patient id of row 1"):
        patient_codes(["a", missing], 2)


def test_the_number_of_patient_ids_must_match() -> None:
    with pytest.raises(LungtlError, match="1 patient ids for 2 labels"):
        patient_codes(["a"], 2)
