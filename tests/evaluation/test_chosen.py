from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.evaluation.calibration import fit_isotonic, fit_platt, fit_temperature
from lungtl.evaluation.chosen import FILE, Kind, choose, choose_thresholds, read_chosen, write_chosen
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort


@pytest.fixture(scope="module")
def validation() -> pd.DataFrame:
    data = cohort()
    return pd.DataFrame({"patient_id": data.patient_ids, "label": data.labels, "probability": data.probabilities})


def test_chosen_is_fitted_on_the_validation_bags(validation: pd.DataFrame) -> None:
    chosen = choose(validation, "temperature")
    labels, probabilities = validation["label"], validation["probability"]
    assert (chosen.n, chosen.n_patients, chosen.n_positive) == (60, 50, int(labels.sum()))
    assert chosen.platt == fit_platt(labels, probabilities)
    assert chosen.temperature == fit_temperature(labels, probabilities)
    assert chosen.isotonic == fit_isotonic(labels, probabilities)
    assert chosen.thresholds == choose_thresholds(labels, probabilities)


@pytest.mark.parametrize("kind", ["platt", "temperature", "isotonic", "none"])
def test_predictions_get_the_requested_calibration(validation: pd.DataFrame, kind: Kind) -> None:
    chosen = choose(validation, kind)
    given = np.array([0.1, 0.5, 0.93])
    expected = {
        "platt": chosen.platt.apply(given),
        "temperature": chosen.temperature.apply(given),
        "isotonic": chosen.isotonic.apply(given),
        "none": None,
    }
    np.testing.assert_array_equal(chosen.calibrated(given), expected[kind])


def test_no_calibrated_predictions_where_it_could_not_be_fitted(validation: pd.DataFrame) -> None:
    assert choose(validation.assign(label=0), "temperature").calibrated([0.3]) is None


def test_chosen_survives_writing_and_reading(validation: pd.DataFrame, tmp_path: Path) -> None:
    for bags in (validation, validation.assign(label=0)):  # one class: neither map nor threshold
        chosen = choose(bags, "isotonic")
        write_chosen(chosen, tmp_path)
        assert read_chosen(tmp_path) == chosen


def test_files_of_version_0_1_0_without_platt_are_read(validation: pd.DataFrame, tmp_path: Path) -> None:
    chosen = choose(validation, "temperature")
    document = asdict(chosen)
    del document["platt"]
    for kind in ("temperature", "isotonic"):
        del document[kind]["slope"], document[kind]["intercept"]
    (tmp_path / FILE).write_text(json.dumps(document))
    read = read_chosen(tmp_path)
    assert read is not None
    assert (read.temperature, read.isotonic, read.platt.kind) == (chosen.temperature, chosen.isotonic, "none")
    np.testing.assert_array_equal(read.calibrated([0.3, 0.8]), chosen.calibrated([0.3, 0.8]))


def test_a_folder_without_the_file_gives_none(tmp_path: Path) -> None:
    assert read_chosen(tmp_path) is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"kind": "temperature"}'])
def test_a_damaged_file_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    with pytest.raises(LungtlError, match="fetch the bundle again"):
        read_chosen(tmp_path)


def test_an_unknown_key_is_refused(validation: pd.DataFrame, tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(json.dumps(asdict(choose(validation, "none")) | {"surprise": 1}))
    with pytest.raises(LungtlError, match="surprise"):
        read_chosen(tmp_path)
