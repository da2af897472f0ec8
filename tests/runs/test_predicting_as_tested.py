"""A run on DICOM scans: its bundle predicts the raw files as the test split was predicted, and knows other scans."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.data.splits import split_bags
from lungtl.data.store.writer import prepare
from lungtl.runs.ensemble import write_ensemble
from lungtl.runs.experiment import Result, run_experiment
from lungtl.runs.model import Model
from lungtl.sources.ct.series import Series, find_series
from lungtl.sources.dicom import DicomSource
from tests.dicom_files import write_series
from tests.training.test_fit import config_of

N_SCANS = 30
BLOCKED = """
import json, pickle, sys
for name in ("hydra", "lightning", "pytorch_lightning", "mlflow", "torchmetrics"):
    sys.modules[name] = None  # importing it fails
import numpy as np
import lungtl
import lungtl.runs.model  # torch itself imports and defines pickles


def refuse(*args, **kwargs):
    raise AssertionError("something was unpickled")


pickle.load = pickle.loads = pickle.Unpickler = refuse
model = lungtl.load(sys.argv[1])
found = model.predict(np.load(sys.argv[2], allow_pickle=False), spacing_mm=(2.0, 0.75, 0.75))
print(json.dumps([found.probability, [warning.code for warning in found.warnings]]))
"""


def volume_of(number: int, slices: int = 6, size: int = 48) -> np.ndarray:
    """Stored values of a scan with noise; odd ones have a bright square."""
    hu = np.random.default_rng(number).normal(-700, 120, (slices, size, size))
    if number % 2:
        hu[1:4, 16:32, 16:32] += 600
    stored: np.ndarray = (hu + 1024).astype(np.int16)
    return stored


def uid(number: int) -> str:
    return f"1.2.826.0.1.3680043.8.498.{300 + number}"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scans")
    rows = ["series_uid,patient_id,label"]
    for number in range(N_SCANS):
        z_mm = [2.0 * k for k in range(6)]
        write_series(root / f"{number}", z_mm, volume_of(number), uid=uid(number), ConvolutionKernel="LUNG")
        rows.append(f"{uid(number)},p{number},{number % 2}")
    (root / "labels.csv").write_text("\n".join(rows))
    return root


@pytest.fixture(scope="module")
def done(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("run")
    store = prepare(DicomSource(str(root), str(root / "labels.csv")), folder)
    config = config_of(folder, max_epochs=1)
    evaluation = config.evaluation.model_copy(update={"untrained": False, "figures": False, "resamples": 20})
    backbone = {**config.backbone, "weights": "none"}
    config = config.model_copy(update={"backbone": backbone, "evaluation": evaluation})
    split = split_bags(store.bags, config.split)
    result = run_experiment(config, store, split, folder / "run", name="dicom")
    assert result is not None
    return result


@pytest.fixture(scope="module")
def model(done: Result) -> Model:
    return Model.open(done.folder)


@pytest.fixture(scope="module")
def series(root: Path) -> dict[str, Series]:
    return {one.uid: one for one in find_series(root)[0]}


def test_raw_files_are_predicted_as_the_test_split_was(done: Result, model: Model, series: dict[str, Series]) -> None:
    tested = done.predictions
    assert len(tested) >= 4
    for row in tested.itertuples():
        found = model.predict_series(series[str(row.bag_id)])
        assert found.probability == pytest.approx(row.probability, abs=1e-5)
        slices = done.slices[done.slices["bag_id"] == row.bag_id]
        np.testing.assert_allclose(found.slices["weight"], slices["weight"], atol=1e-5)
        assert found.warnings == ()
        assert found.unknown == ("contrast",)


def test_the_bundle_describes_the_training_scans(done: Result, model: Model) -> None:
    ranges = model.ranges
    assert ranges is not None
    training = pd.read_csv(done.folder / "split.csv").query("split == 'train'")
    assert ranges.n == len(training)
    numbers = ranges.numbers
    assert (numbers["z_extent_mm"].min, numbers["z_extent_mm"].max) == (10, 10)
    assert (numbers["field_mm"].p50, numbers["pixel_spacing_mm"].p50) == (36, 0.75)
    assert (numbers["native_spacing_mm"].p50, numbers["slice_thickness_mm"].p50) == (2, 2.5)
    assert ranges.codes["kernel"] == {"LUNG": ranges.n}
    tested = done.predictions
    for label in (0, 1):
        own = tested.loc[tested["label"] == label, "probability"]
        quantiles = ranges.scores["test"][str(label)]
        assert quantiles.n == len(own)
        assert quantiles.min == pytest.approx(own.min(), rel=1e-5)
        assert quantiles.p50 == pytest.approx(own.median(), rel=1e-5)
    assert model.reference is not None
    assert len(model.reference.embeddings) == ranges.n


def test_a_different_scan_is_said_to_be_different(model: Model, tmp_path: Path) -> None:
    stored = np.random.default_rng(0).normal(1000, 300, (5, 64, 64)).astype(np.int16)
    write_series(tmp_path, [5.0 * k for k in range(5)], stored, PixelSpacing=["1.5", "1.5"], SliceThickness="5",
                 ConvolutionKernel="B70f", ContrastBolusAgent="OMNIPAQUE")  # fmt: skip
    found = model.predict_series(find_series(tmp_path)[0][0])
    values = {warning.code: warning.value for warning in found.warnings}
    distance = float(values.pop("unfamiliar"))
    assert distance > 1
    assert values == {"z-coverage": "20 mm", "field-of-view": "96 mm", "pixel-spacing": "1.5 mm", "contrast": "yes",
                      "slice-spacing": "5 mm", "slice-thickness": "5 mm", "kernel": "B70F"}  # fmt: skip
    assert found.unknown == ()


def test_an_array_states_less_than_a_series(model: Model) -> None:
    hu = volume_of(1) - 1024
    found = model.predict(hu, spacing_mm=(2.0, 0.75, 0.75))
    assert found.warnings == ()
    assert set(found.unknown) == {"slice-thickness", "kernel", "contrast"}
    without = model.predict(hu, spacing_mm=2.0)
    assert set(without.unknown) == {*found.unknown, "field-of-view", "pixel-spacing", "no-lungs"}
    assert without.probability == found.probability


def test_an_older_bundle_warns_of_nothing(model: Model, series: dict[str, Series]) -> None:
    older = replace(model, ranges=None, reference=None)
    found = older.predict_series(series[uid(0)])
    assert found.warnings == ()
    assert {"phantom", "unfamiliar", "z-coverage"} <= set(found.unknown)


def test_card_json_holds_what_the_card_says(done: Result) -> None:
    card = json.loads((done.folder / "bundle" / "card.json").read_text())
    run = json.loads((done.folder / "run.json").read_text())
    assert "not a medical device" in card["intended_use"]
    assert card["eval_metrics"]["auroc"] == done.metrics["bag"]["metrics"]["auroc"]
    assert set(card["scores"][0]["controls"]) == set(done.metrics["controls"])
    assert card["fingerprints"]["store_fingerprint"] == run["store_fingerprint"]
    assert card["training_ranges"] == json.loads((done.folder / "bundle" / "ranges.json").read_text())
    assert card["preprocessing"][0]["size"] == 32
    assert card["licences"] == {
        "lungtl": "Apache-2.0", "starting_weights": "unknown", "training_data": "as given by the data's owner"
    }  # fmt: skip
    assert card["network_data_format"]["inputs"]["image"]["modality"] == "CT"


def test_an_ensemble_covers_its_members(done: Result, series: dict[str, Series], tmp_path: Path) -> None:
    write_ensemble([done.folder, done.folder], tmp_path / "both", "both")
    both = Model.open(tmp_path / "both")
    assert both.ranges is not None
    assert both.members[0].ranges is not None
    assert both.ranges.numbers == both.members[0].ranges.numbers
    card = json.loads((tmp_path / "both" / "bundle" / "card.json").read_text())
    assert len(card["scores"]) == len(card["preprocessing"]) == 2
    found = both.predict_series(series[uid(0)])
    assert found.warnings == ()
    assert "unfamiliar" not in found.unknown


@pytest.mark.slow
def test_a_bundle_loads_without_hydra_lightning_mlflow_or_pickle(done: Result, model: Model, tmp_path: Path) -> None:
    hu = volume_of(3) - 1024
    np.save(tmp_path / "hu.npy", hu)
    command = [sys.executable, "-c", BLOCKED, str(done.folder / "bundle"), str(tmp_path / "hu.npy")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    probability, warnings = json.loads(ran.stdout)
    assert probability == pytest.approx(model.predict(hu, spacing_mm=(2.0, 0.75, 0.75)).probability, abs=1e-6)
    assert warnings == []
