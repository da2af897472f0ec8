from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mlflow
import numpy as np
import pytest

from lungtl.bundle import FILES
from lungtl.data.store.files import write_checksums
from lungtl.data.store.reader import Store
from lungtl.tracking.backend import default_uri
from tests.commands import served_0_1_0
from tests.commands.conftest import Lab, Trained, read_csv, read_json, uid

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _tracking_uri_of_the_environment() -> Iterator[None]:
    """`mlflow.set_tracking_uri` sets it for the tests that follow."""
    yield
    os.environ.pop("MLFLOW_TRACKING_URI", None)


@pytest.fixture(scope="module")
def uri(lab: Lab, trained: Trained) -> str:
    done = lab.run("register", f"run={trained.run_id[:8]}")
    assert done.code == 0, done.err
    return done.out.strip()


@pytest.fixture(scope="module")
def model(lab: Lab, uri: str) -> Any:
    mlflow.set_tracking_uri(default_uri(lab.data_dir))
    return mlflow.pyfunc.load_model(uri)


@pytest.fixture(scope="module")
def store(lab: Lab, trained: Trained) -> Store:
    """Of the scans that the run was trained on."""
    return Store(lab.data_dir / "stores" / read_json(trained.folder / "run.json")["store"])


def test_the_loaded_model_predicts_what_the_run_predicted(store: Store, trained: Trained, model: Any) -> None:
    for row in read_csv(trained.folder / "predictions.csv"):
        slices = np.asarray(store.voxels(row["bag_id"]))
        said = model.predict(slices)
        assert list(said.columns) == ["probability", "calibrated"]
        expected = [[float(row["probability"]), float(row["calibrated"] or "nan")]]
        np.testing.assert_allclose(said.to_numpy(), expected, atol=1e-5)


def test_models_registered_by_version_0_1_0_still_predict(store: Store, trained: Trained, model: Any) -> None:
    served = served_0_1_0.ServedBundle()
    served.load_context(SimpleNamespace(artifacts={"bundle": str(trained.folder / "bundle")}))
    slices = np.asarray(store.voxels(uid(0)))
    found = served.predict(None, slices)  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(found, model.predict(slices), atol=1e-5)


def test_signature_example_and_alias(client: Any, trained: Trained, uri: str, model: Any) -> None:
    assert uri == "models:/lungtl@best"
    version = client.get_model_version_by_alias("lungtl", "best")
    assert version.run_id == trained.run_id
    assert model.metadata.signature.inputs.input_types() == [np.dtype(np.int16)]
    example = model.input_example
    assert example.dtype == np.int16
    assert model.predict(example).shape == (1, 2)
    assert model.metadata.signature.outputs.input_names() == ["probability", "calibrated"]
    assert "[slices, height, width], HU, 1 mm apart, not cropped" in version.description


def test_nothing_of_it_is_pickled(client: Any, trained: Trained, uri: str) -> None:
    (model,) = [one.path for one in client.list_artifacts(trained.run_id) if one.path.startswith("model-")]
    folder = Path(client.download_artifacts(trained.run_id, model))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".pt", ".pth")]


def test_registering_again_adds_no_version(lab: Lab, client: Any, trained: Trained, uri: str) -> None:
    before = int(client.get_model_version_by_alias("lungtl", "best").version)
    assert lab.run("register", f"run={trained.folder}").out.strip() == uri
    assert int(client.get_model_version_by_alias("lungtl", "best").version) == before


def test_the_bundles_crop_is_told_and_its_calibration_applied(
    lab: Lab, store: Store, client: Any, trained: Trained, tmp_path: Path
) -> None:
    """A copy of the run whose bundle says that its slices were cropped, and calibrates with a temperature of 2."""
    folder = tmp_path / "run"
    shutil.copytree(trained.folder, folder)
    config = read_json(folder / "bundle" / "config.json")
    config["provenance"]["crop"] = "lungs"
    (folder / "bundle" / "config.json").write_text(json.dumps(config))
    chosen = read_json(folder / "bundle" / "calibration.json")
    chosen["kind"] = "temperature"
    chosen["temperature"] |= {"kind": "temperature", "temperature": 2.0, "reason": None}
    (folder / "bundle" / "calibration.json").write_text(json.dumps(chosen))
    write_checksums(folder / "bundle", FILES)
    done = lab.run("register", f"run={folder}", "name=cropped")
    assert "cropped to the lungs" in done.err
    version = client.get_model_version_by_alias("cropped", "best")
    assert "HU, 1 mm apart, cropped to the lungs" in version.description
    mlflow.set_tracking_uri(default_uri(lab.data_dir))
    model = mlflow.pyfunc.load_model(done.out.strip())
    (said,) = model.predict(np.asarray(store.voxels(uid(0)))).to_dict("records")
    odds = said["probability"] / (1 - said["probability"])
    assert said["calibrated"] == pytest.approx(odds**0.5 / (1 + odds**0.5))


def test_a_run_that_was_not_tracked(lab: Lab, untracked: Trained) -> None:
    assert "tracking=none" in lab.run("register", f"run={untracked.folder}").complaint()


@pytest.mark.parametrize("wrong", ["name=a/b", "alias=Best!", "run=ffffffff"])
def test_a_wrong_argument(lab: Lab, trained: Trained, wrong: str) -> None:
    done = lab.run("register", *[] if wrong.startswith("run=") else [f"run={trained.folder}"], wrong)
    assert done.code == 2
    assert wrong.split("=")[1] in done.err
