"""An earlier run's backbone as the weights of the next."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file
from timm.data.config import resolve_model_data_config
from torch import nn

from lungtl import bundle
from lungtl.bundle import FILES, save_bundle
from lungtl.data.store.files import write_checksums
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.mean import Mean
from lungtl.models.backbones import weights as weights_of
from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.slice_projection import SliceProjection
from lungtl.runs.folder import BUNDLE
from lungtl.settings.errors import LungtlError
from tests.models.tiny import LUNG

SPLIT = "5a" * 32
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def prune(net: nn.Module, name: str) -> None:
    """What features=stages drops."""
    net.prune_intermediate_layers(3, prune_norm=True, prune_head=True)  # type: ignore[operator]


def run(
    folder: Path, name: str = "test_resnet.r160_in1k", features: Literal["last", "stages"] = "last", size: int = 32
) -> tuple[Path, dict[str, torch.Tensor]]:
    """The folder of a finished run, and the weights of its backbone."""
    torch.manual_seed(5)
    backbone = TimmBackbone(name, "none", features)
    backbone.set_input_size(size)
    preprocessor = SlicePreprocessor(LUNG, False, size, None, MEAN, STD)
    classifier = BagClassifier(preprocessor, backbone, SliceProjection(backbone.dim, 8, 0.0), Mean(8))
    spec = {"_target_": "lungtl.models.aggregators.mean.Mean"}
    save_bundle(classifier, spec, folder / "bundle", {"split_fingerprint": SPLIT}, "# card\n")
    return folder, {k: v.clone() for k, v in backbone.net.state_dict().items()}


def same_weights(model: nn.Module, expected: dict[str, torch.Tensor]) -> bool:
    found = model.state_dict()
    return found.keys() == expected.keys() and all(torch.equal(value, expected[key]) for key, value in found.items())


def edit(folder: Path, **changes: Any) -> None:
    """As another version would have written it."""
    path = folder / "bundle" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    write_checksums(folder / "bundle", FILES)


@pytest.mark.parametrize("part", ["", "bundle"])
def test_the_backbone_is_as_the_run_left_it(tmp_path: Path, part: str) -> None:
    folder, expected = run(tmp_path)
    model, loaded = load_model("test_resnet", str(folder / part))
    assert same_weights(model, expected)
    checksum = hashlib.sha256((folder / "bundle" / "model.safetensors").read_bytes()).hexdigest()
    assert loaded == LoadedWeights("bundle", "test_resnet.r160_in1k", "model.safetensors", checksum, SPLIT)


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    _, expected = run(tmp_path / "run")
    assert same_weights(load_model("test_resnet", "~/run")[0], expected)


@pytest.mark.parametrize("name", ["resnet18", "test_vit", "tf_efficientnet_lite0", "convnext_atto"])
def test_a_pruned_backbone_fits_a_pruned_one(tmp_path: Path, name: str) -> None:
    folder, expected = run(tmp_path, name, "stages")
    assert same_weights(load_model(name, str(folder), prune=prune)[0], expected)


def test_a_whole_backbone_is_pruned_after_loading(tmp_path: Path) -> None:
    folder, expected = run(tmp_path, "test_efficientnet")
    model, _ = load_model("test_efficientnet", str(folder), prune=prune)
    found = model.state_dict()
    assert found.keys() < expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in found.items())


def test_a_pruned_backbone_has_no_last_embedding(tmp_path: Path) -> None:
    folder, _ = run(tmp_path, "test_efficientnet", "stages")
    with pytest.raises(LungtlError, match=r"with features=stages, without .*; use backbone\.features=stages"):
        load_model("test_efficientnet", str(folder))


@pytest.mark.parametrize("name", ["test_vit", "test_resnet"])
def test_the_next_run_has_the_earlier_runs_input_config(tmp_path: Path, name: str) -> None:
    folder, expected = run(tmp_path, name, size=64)
    model, _ = load_model(name, str(folder))
    assert same_weights(model, expected)  # position embeddings of 64 pixels included: they were not resampled
    seen = resolve_model_data_config(model)
    assert seen["input_size"] == (3, 64, 64)
    assert (*seen["mean"], *seen["std"]) == pytest.approx((*MEAN, *STD))
    other, _ = load_model(name, "none")
    assert resolve_model_data_config(other)["input_size"] == (3, 160, 160)


def test_another_architecture_is_named(tmp_path: Path) -> None:
    folder, _ = run(tmp_path)
    message = r"test_resnet, not test_vit; use backbone\.name=test_resnet\.r160_in1k"
    with pytest.raises(LungtlError, match=message):
        load_model("test_vit", str(folder))


def test_weights_that_do_not_fit_the_config_are_named(tmp_path: Path) -> None:
    folder, _ = run(tmp_path)
    path = folder / "bundle" / "model.safetensors"
    tensors = load_file(path)
    del tensors["backbone.net.bn1.weight"]
    tensors["backbone.net.extra"] = torch.zeros(1)
    save_file(tensors, path)
    write_checksums(folder / "bundle", FILES)
    with pytest.raises(LungtlError, match=r"1 missing \(bn1\.weight\), 1 unexpected \(extra\)"):
        load_model("test_resnet", str(folder))


def test_a_run_that_did_not_finish(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(LungtlError, match=r"has no config\.json; give the folder of a finished run"):
        load_model("test_resnet", str(tmp_path))


def test_a_bundle_without_its_weights(tmp_path: Path) -> None:
    folder, _ = run(tmp_path)
    (folder / "bundle" / "model.safetensors").unlink()
    with pytest.raises(LungtlError, match=r"has no model\.safetensors; "):
        load_model("test_resnet", str(folder))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 99}, "has bundle format 99, this lungtl reads"),
        ({"backbone": "test_resnet"}, "is not a readable bundle"),
        ({"backbone": {"name": "test_resnet"}}, "is not a readable bundle .'features'"),
        ({"preprocessing": {"size": "large"}}, "is not a readable bundle"),
        ({"provenance": None}, "is not a readable bundle"),
    ],
)
def test_a_config_that_cannot_be_read(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    folder, _ = run(tmp_path)
    edit(folder, **changes)
    with pytest.raises(LungtlError, match=message):
        load_model("test_resnet", str(folder))


def test_half_of_the_weights(tmp_path: Path) -> None:
    folder, _ = run(tmp_path)
    path = folder / "bundle" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(LungtlError, match=r"model\.safetensors was altered"):
        load_model("test_resnet", str(folder))
    write_checksums(folder / "bundle", FILES)
    with pytest.raises(LungtlError, match="is not a readable state dict"):
        load_model("test_resnet", str(folder))


def test_names_and_format_are_those_that_a_bundle_is_written_with() -> None:
    assert (weights_of.FORMAT, weights_of.CONFIG, weights_of.WEIGHTS, weights_of.BUNDLE) == (
        bundle.FORMAT, bundle.CONFIG, bundle.WEIGHTS, BUNDLE,
    )  # fmt: skip
