from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from lungtl.models.backbones.base import LoadedWeights
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model, under_timms_names
from lungtl.settings.errors import LungtlError, UsageError
from tests.models.tiny import tiny_backbone

NAME = "test_resnet"


def weights(seed: int = 3) -> dict[str, Tensor]:
    """A whole timm model, its classifier included."""
    torch.manual_seed(seed)
    state_dict: dict[str, Tensor] = timm.create_model(NAME, pretrained=False).state_dict()
    return state_dict


def write(state_dict: dict[str, Any], path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state_dict, path)
    else:
        torch.save(state_dict, path)
    return str(path)


def load(path: str) -> TimmBackbone:
    torch.manual_seed(99)
    return TimmBackbone(NAME, weights=path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin"])
@pytest.mark.parametrize("classifier", [True, False])
def test_weights_from_a_file_are_those_in_it(tmp_path: Path, suffix: str, classifier: bool) -> None:
    saved = {k: v for k, v in weights().items() if classifier or not k.startswith("fc.")}
    backbone = load(write(saved, tmp_path / f"w{suffix}"))
    found = backbone.net.state_dict()
    assert found.keys() == {key for key in saved if not key.startswith("fc.")}
    assert all(torch.equal(value, saved[key]) for key, value in found.items())


def test_the_same_weights_have_the_same_fingerprint_whatever_their_file(tmp_path: Path) -> None:
    a = load(write(weights(), tmp_path / "a.safetensors")).fingerprint()
    b = load(write(weights(), tmp_path / "b.pth")).fingerprint()
    c = load(write(weights(4), tmp_path / "c.pth")).fingerprint()
    assert a == b != c


def test_a_training_checkpoint_with_a_state_dict_inside(tmp_path: Path) -> None:
    backbone = load(write({"state_dict": weights(), "epoch": 3}, tmp_path / "c.pth"))
    assert torch.equal(backbone.net.state_dict()["conv1.0.weight"], weights()["conv1.0.weight"])


def test_batch_counts_may_be_missing(tmp_path: Path) -> None:
    saved = {key: value for key, value in weights().items() if "num_batches_tracked" not in key}
    found = load(write(saved, tmp_path / "w.pth")).net.state_dict()
    assert all(torch.equal(found[key], value) for key, value in saved.items() if not key.startswith("fc."))


@pytest.mark.parametrize("prefix", ["module.", "model.", "backbone.", "module.model.backbone.", "_orig_mod."])
def test_prefixes_of_wrappers(tmp_path: Path, prefix: str) -> None:
    saved = {f"{prefix}{key}": value for key, value in weights().items()}
    more = {} if prefix in ("module.", "_orig_mod.") else {"queue": torch.ones(3)}  # of the training
    found = load(write(saved | more, tmp_path / "w.pth")).net.state_dict()
    assert torch.equal(found["conv1.0.weight"], weights()["conv1.0.weight"])


def test_one_of_two_networks_in_a_file_is_not_guessed(tmp_path: Path) -> None:
    saved = {f"{name}.{key}": value for name in ("student", "teacher") for key, value in weights().items()}
    with pytest.raises(LungtlError, match=r"unexpected \(student\."):
        load(write(saved, tmp_path / "w.pth"))


def test_names_of_dinov2_as_its_authors_publish_them(tmp_path: Path) -> None:
    whole = timm.create_model("test_vit", pretrained=False, num_classes=0).state_dict()
    saved = whole | {"mask_token": torch.zeros(1, 64)}
    model, _ = load_model("test_vit", write(saved, tmp_path / "w.pth"))
    assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


def test_a_home_folder_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(weights(), tmp_path / "w.pth")
    load("~/w.pth")


def change(**edits: Any) -> dict[str, Tensor]:
    state_dict = weights()
    for key, value in edits.items():
        name = key.replace("__", ".")
        if value is None:
            del state_dict[name]
        else:
            state_dict[name] = value
    return state_dict


@pytest.mark.parametrize(
    ("saved", "message"),
    [
        (change(bn1__weight=None, layer1__0__bn1__weight=None), r"2 missing \(bn1\.weight, layer1\.0\.bn1\.weight\)"),
        (change(zzz__weight=torch.ones(1), extra__bias=torch.ones(1)), r"2 unexpected \(extra\.bias, zzz\.weight\)"),
        (change(bn1__weight=torch.ones(7)), r"1 of different shape \(bn1\.weight\)"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, saved: dict[str, Tensor], message: str) -> None:
    path = write(saved, tmp_path / "w.safetensors")
    with pytest.raises(LungtlError, match=rf"w\.safetensors does not match {NAME}: {message}; check backbone\.name"):
        load(path)


def test_weights_of_another_architecture_do_not_fit(tmp_path: Path) -> None:
    path = write(tiny_backbone(name="test_vit").net.state_dict(), tmp_path / "vit.pth")
    with pytest.raises(LungtlError, match=rf"does not match {NAME}: \d+ missing .*, \d+ unexpected"):
        load(path)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil_was_here",)


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write({**weights(), "evil": Evil()}, tmp_path / "w.pth")
    with pytest.raises(LungtlError, match=r"w\.pth is not a readable state dict") as error:
        load(path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "evil_was_here").exists()


@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights at all"])
def test_a_file_without_weights_is_refused(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LungtlError, match=rf"{name} is not a readable state dict") as error:
        load(str(tmp_path / name))
    assert "\n" not in str(error.value)


def test_half_a_file(tmp_path: Path) -> None:
    path = Path(write(weights(), tmp_path / "w.safetensors"))
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(LungtlError, match="is not a readable state dict"):
        load(str(path))


def test_a_file_that_holds_something_else(tmp_path: Path) -> None:
    torch.save([1, 2, 3], tmp_path / "w.pth")
    with pytest.raises(LungtlError):
        load(str(tmp_path / "w.pth"))


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"backbone\.weights=hubb is neither auto, hub, wheel, none"):
        load("hubb")


def test_a_pretrained_tag_that_timm_does_not_know() -> None:
    with pytest.raises(UsageError, match=r"name=resnet18\.a1_in2k: .* did you mean resnet18\.a1_in1k\?"):
        load_model("resnet18.a1_in2k", "none")


def test_provenance_has_name_and_checksum_but_no_folder(tmp_path: Path) -> None:
    path = write(weights(), tmp_path / "mine.pth")
    checksum = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    assert load_model(NAME, path)[1] == LoadedWeights("file", "", "mine.pth", checksum)
    assert load_model(NAME, "none")[1] == LoadedWeights("none")


@pytest.mark.parametrize(("name", "classifier"), [("levit_128s", "head.bn.weight"), ("test_vit", "head.weight")])
def test_a_classifier_of_several_layers_is_omitted_completely(tmp_path: Path, name: str, classifier: str) -> None:
    whole = timm.create_model(name, pretrained=False, num_classes=7).state_dict()
    assert classifier in whole
    model, _ = load_model(name, write(whole, tmp_path / "w.pth"))
    assert all(torch.equal(value, whole[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("channels", [1, 2, 5, 6])
@pytest.mark.parametrize("name", [NAME, "test_vit", "test_efficientnet"])
def test_other_channels_are_adapted_as_timm_does_it(tmp_path: Path, name: str, channels: int) -> None:
    whole = timm.create_model(name, pretrained=False).state_dict()
    model, _ = load_model(name, write(whole, tmp_path / "w.safetensors"), in_chans=channels)
    overlay = {"state_dict": dict(whole)}
    by_timm = timm.create_model(
        name, pretrained=True, num_classes=0, in_chans=channels, pretrained_cfg_overlay=overlay
    ).state_dict()
    found = model.state_dict()
    assert found.keys() == by_timm.keys()
    assert all(torch.equal(value, by_timm[key]) for key, value in found.items())


def test_a_grey_image_equals_three_equal_channels(tmp_path: Path) -> None:
    path = write(weights(), tmp_path / "w.safetensors")
    grey = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = load_model(NAME, path)[0].eval()(grey.expand(-1, 3, -1, -1))
        torch.testing.assert_close(load_model(NAME, path, in_chans=1)[0].eval()(grey), expected)


def test_weights_of_five_channels_do_not_fit_three(tmp_path: Path) -> None:
    saved = timm.create_model(NAME, pretrained=False, in_chans=5).state_dict()
    with pytest.raises(LungtlError, match=r"1 of different shape \(conv1\.0\.weight\)"):
        load(write(saved, tmp_path / "w.pth"))


def test_kernels_of_volumes_compute_of_a_slice_what_they_compute_of_that_slice_repeated() -> None:
    kernel = torch.randn(4, 3, 3, 7, 7, generator=torch.Generator().manual_seed(1))
    image = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    volume = image[:, :, None].expand(-1, -1, 9, -1, -1)
    conv = torch.nn.Conv2d(3, 4, 7, bias=False)
    conv.weight.data = under_timms_names(conv, {"weight": kernel})["weight"]
    of_volume = torch.nn.functional.conv3d(volume, kernel)[:, :, 3]
    torch.testing.assert_close(conv(image), of_volume, rtol=1e-4, atol=1e-4)


def test_an_inflated_network_is_that_it_was_inflated_from(tmp_path: Path) -> None:
    flat = weights()
    inflated = {k: v[:, :, None].expand(-1, -1, 3, -1, -1) / 3 if v.ndim == 4 else v for k, v in flat.items()}
    halves = {k: v.bfloat16().contiguous() if v.is_floating_point() else v for k, v in inflated.items()}
    found = load(write(halves, tmp_path / "w.bin")).net.state_dict()
    for key, value in found.items():
        torch.testing.assert_close(value, flat[key], rtol=2e-2, atol=1e-3)
