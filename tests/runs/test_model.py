"""What `lungtl.load` returns, on a bundle of a tiny network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.bundle import save_bundle
from lungtl.data.store.files import SUMS
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError
from tests.models.tiny import WIDTH, tiny_classifier

GATED = {"_target_": "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
FACTS = {"name": "tiny", "mlflow_run_id": None, "store": "toy", "store_fingerprint": "f", "value_range": None}


def bundle(folder: Path, **facts: Any) -> Path:
    classifier = tiny_classifier(aggregator=GatedAttention(WIDTH, 5))
    save_bundle(classifier, GATED, folder, {**FACTS, "crop": "none", **facts}, "# card\n")
    return folder


def noise(slices: int = 4) -> Any:
    return np.random.default_rng(0).normal(-500, 200, (slices, 32, 32))


def test_slices_are_resampled_to_1_mm(tmp_path: Path) -> None:
    model = Model.open(bundle(tmp_path))
    found = model.predict(noise(), spacing_mm=2.5)
    assert found.slices["z_mm"].tolist() == [float(z) for z in range(8)]  # 0 to 7.5 mm
    assert found.slices["weight"].sum() == pytest.approx(1)
    assert found.calibrated is None
    again = model.predict(noise(), spacing_mm=(2.5, 0.7, 0.7))
    assert again.probability == found.probability


def test_1_mm_slices_are_predicted_as_they_are(tmp_path: Path) -> None:
    model = Model.open(bundle(tmp_path))
    volume = np.rint(noise()).astype(np.int16)
    assert model.predict(volume, spacing_mm=1.0).probability == model.predict_voxels(volume).probability


@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((4, 8), 1.0), ((1, 8, 8), 1.0), ((4, 8, 8), 0.0), ((4, 8, 8), (1.0, 0.0, 0.7)), ((4, 8, 8), (1.0, 0.7)),
     ((4, 8, 8), float("nan")), ((4, 8, 8), 50.0)],
)  # fmt: skip
def test_impossible_geometry_is_refused(tmp_path: Path, shape: tuple[int, ...], spacing: Any) -> None:
    with pytest.raises(LungtlError, match="spacing_mm="):
        Model.open(bundle(tmp_path)).predict(np.zeros(shape), spacing_mm=spacing)


def test_a_crop_to_the_lungs_requires_the_pixel_spacing(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match="three positive spacings"):
        Model.open(bundle(tmp_path, crop="lungs")).predict(noise(), spacing_mm=1.0)


def test_values_that_are_not_hu_are_refused(tmp_path: Path) -> None:
    model = Model.open(bundle(tmp_path))
    for wrong in (np.inf, 1e6):
        with pytest.raises(LungtlError, match="Hounsfield"):
            model.predict(np.full((3, 8, 8), wrong), spacing_mm=1.0)


def test_a_model_of_grey_values_reads_no_hu(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match="grey values"):
        Model.open(bundle(tmp_path, value_range=[0, 255])).predict(noise(), spacing_mm=1.0)


def test_a_model_of_nodules_reads_no_scans(tmp_path: Path) -> None:
    model = Model.open(bundle(tmp_path, bag="nodule"))
    with pytest.raises(LungtlError, match=r"nodules cut out of scans \(dataset\.bag=nodule\)"):
        model.predict(noise(), spacing_mm=1.0)
    assert 0 < model.predict_voxels(np.rint(noise()).astype(np.int16)).probability < 1


def test_a_bundle_without_provenance_is_damaged(tmp_path: Path) -> None:
    path = bundle(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    del config["provenance"]["crop"]
    path.write_text(json.dumps(config))
    (path.parent / SUMS).unlink()  # the content is checked, too
    with pytest.raises(LungtlError, match=r"damaged bundle .*crop"):
        Model.open(tmp_path)


def test_a_class_of_another_package_needs_trust(tmp_path: Path) -> None:
    path = bundle(tmp_path) / "config.json"
    config = json.loads(path.read_text())
    config["aggregator"] = {"_target_": "torch.nn.Identity"}
    path.write_text(json.dumps(config))
    (path.parent / SUMS).unlink()  # the content is checked, too
    with pytest.raises(LungtlError, match="trust=torch"):
        Model.open(tmp_path)
