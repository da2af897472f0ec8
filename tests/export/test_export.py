"""`lungtl export` writes files that compute the same without lungtl, and that say what they are."""

from __future__ import annotations

import json
import pickle
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lungtl.bundle import save_bundle
from lungtl.export import write
from lungtl.export.__main__ import run
from lungtl.export.formats import FACTS, run_onnx, run_torch
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import ExportConfig
from lungtl.sources.base import sha256
from tests.models.tiny import WIDTH, tiny_classifier

onnx = pytest.importorskip("onnx")
GATED = {"_target_": "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
FACTS_OF_RUN = {"name": "tiny", "mlflow_run_id": None, "store": "toy", "store_fingerprint": "f", "value_range": None,
                "crop": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    save_bundle(tiny_classifier(aggregator=GatedAttention(WIDTH, 5)), GATED, folder, FACTS_OF_RUN, "# card\n")
    return folder


@pytest.fixture(scope="module")
def files(bundle: Path) -> dict[str, Path]:
    paths = {"onnx": bundle / "out" / "model.onnx", "torch": bundle / "out" / "model.pt2"}
    for name, path in paths.items():
        config = {"model": str(bundle), "trust": None, "format": name, "output": path, "data_dir": bundle}
        run(ExportConfig.model_validate(config))
    return paths


@pytest.mark.parametrize("name", ["onnx", "torch"])
def test_the_file_computes_what_the_model_computes(files: dict[str, Path], bundle: Path, name: str) -> None:
    model = Model.open(bundle)
    compute = {"onnx": run_onnx, "torch": run_torch}[name](files[name].read_bytes())
    for slices in (1, 3, 12):
        voxels = np.random.default_rng(slices).integers(-1200, 500, (slices, 50, 40)).astype(np.int16)
        expected = model.predict_voxels(voxels)
        probability, weights = compute(voxels, np.ones(2, np.float32))
        assert probability == pytest.approx(expected.probability, abs=1e-4)
        np.testing.assert_allclose(weights, expected.slices["weight"], atol=1e-4)


def test_both_files_say_what_they_are(files: dict[str, Path], bundle: Path) -> None:
    of_onnx = {each.key: each.value for each in onnx.load(files["onnx"]).metadata_props}
    with zipfile.ZipFile(files["torch"]) as archive:
        of_torch = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith(FACTS))))
    assert of_torch == {key: of_onnx[key] for key in of_torch}
    assert of_torch["name"] == "tiny"
    assert "not a medical device" in of_torch["notice"]
    assert of_torch["voxels"].startswith("int16 [slices, height, width]: Hounsfield units, slices 1 mm apart")
    assert json.loads(of_torch["models"])[0]["preprocessing"]["size"] == 32
    assert json.loads(of_torch["weights_sha256"]) == [sha256(bundle / "model.safetensors")]


def test_an_ensembles_file_describes_every_member(bundle: Path) -> None:
    model = Model.open(bundle)
    facts = write.describe(replace(model, members=(model, model)))
    assert len(json.loads(facts["models"])) == len(json.loads(facts["weights_sha256"])) == 2


def test_the_onnx_file_names_its_open_sizes(files: dict[str, Path]) -> None:
    graph = onnx.load(files["onnx"]).graph
    onnx.checker.check_model(str(files["onnx"]))
    sizes = [[d.dim_param for d in each.type.tensor_type.shape.dim] for each in (*graph.input, *graph.output)]
    assert sizes == [["slices", "height", "width"], [], ["slices"]]


def test_loading_the_torch_file_unpickles_nothing(files: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("unpickled something")

    for module, names in ((torch, ("load",)), (pickle, ("load", "loads", "Unpickler"))):
        for name in names:
            monkeypatch.setattr(module, name, refuse)
    probability, _ = run_torch(files["torch"].read_bytes())(np.zeros((2, 33, 33), np.int16), np.ones(2, np.float32))
    assert 0 < probability < 1


def test_a_file_that_computes_something_else_is_not_written(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(content: bytes) -> Any:
        return lambda voxels, spacing: (0.5, np.full(len(voxels), 1 / len(voxels)))

    monkeypatch.setattr(write, "trace", lambda network: None)
    monkeypatch.setattr(write, "to_torch", lambda program, facts: b"")
    monkeypatch.setattr(write, "run_torch", wrong)
    with pytest.raises(LungtlError, match=r"torch computes something else: .*; nothing was written"):
        write.export(Model.open(bundle), "torch", tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_torch_file_has_the_suffix_that_torch_expects(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"m\.pt: format=torch requires the suffix \.pt2; use output=.*m\.pt2"):
        write.export(Model.open(bundle), "torch", tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("facts", "words"),
    [({"value_range": [0, 255]}, "grey values from 0 to 255"), ({"crop": "lungs"}, "cropped to the lungs"),
     ({"bag": "nodule"}, "not a scan but a nodule")],
)  # fmt: skip
def test_the_input_is_described_as_the_model_was_trained(tmp_path: Path, facts: dict[str, Any], words: str) -> None:
    save_bundle(tiny_classifier(aggregator=GatedAttention(WIDTH, 5)), GATED, tmp_path, {**FACTS_OF_RUN, **facts}, "#\n")
    assert words in write.describe(Model.open(tmp_path))["voxels"]
