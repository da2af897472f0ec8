from __future__ import annotations

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.bundle import CARD_DATA, FILES, load_bundle, model_card, save_bundle
from lungtl.bundle.files import COVARIATES, PROBE, RANGES, REFERENCE, SEEN, UNTRAINED
from lungtl.data.store.files import SUMS, write_checksums
from lungtl.evaluation.chosen import FILE as CALIBRATION
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.models.aggregators.max import Max
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from tests.models.tiny import WIDTH, noise_frames, tiny_classifier

GATED = {parts.TARGET: "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
BY_MAX = {parts.TARGET: "lungtl.models.aggregators.max.Max", "level": "embedding"}
BAGS = [noise_frames(4), noise_frames(1, seed=1)]
NETWORKS = [
    ("test_resnet", 32, GATED, GatedAttention(WIDTH, 5)),
    ("test_vit", 64, BY_MAX, Max(WIDTH, "embedding")),  # position embeddings of another size than the model's own
]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bundle") / "bundle"
    save_bundle(tiny_classifier(aggregator=GatedAttention(WIDTH, 5)), GATED, folder, {"store": "abc"}, "# card\n")
    return folder


@pytest.fixture
def bundle(saved: Path, tmp_path: Path) -> Path:
    """Without checksums, as the first bundles are, and as one is that somebody made to do harm."""
    folder = Path(shutil.copytree(saved, tmp_path / "bundle"))
    (folder / SUMS).unlink()
    return folder


@pytest.mark.parametrize(("name", "size", "config", "aggregator"), NETWORKS, ids=["resnet", "vit"])
def test_a_loaded_bundle_says_what_the_saved_network_said(
    tmp_path: Path, name: str, size: int, config: dict[str, Any], aggregator: Aggregator
) -> None:
    classifier = tiny_classifier(seed=5, aggregator=aggregator, name=name, size=size, chunk=None)
    save_bundle(classifier, config, tmp_path / "a" / "bundle", {"store": "abc", "seed": 3}, "# card\n")
    loaded, found = load_bundle(tmp_path / "a" / "bundle")
    assert not any(module.training for module in loaded.modules())
    assert found["provenance"] == {"store": "abc", "seed": 3}
    with torch.no_grad():
        for a, b in zip(loaded(BAGS), classifier.eval()(BAGS), strict=True):
            assert torch.equal(a, b)
    expected = classifier.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


def test_a_bundle_is_text_and_plain_tensors(saved: Path) -> None:
    assert sorted(path.name for path in saved.iterdir()) == [SUMS, "card.md", "config.json", "model.safetensors"]
    config = json.loads((saved / "config.json").read_text())
    assert config["aggregator"] == GATED
    timm = "lungtl.models.backbones.timm_backbone.TimmBackbone"
    assert config["backbone"] == {"_target_": timm, "name": "test_resnet", "features": "last", "in_chans": 3}
    assert config["slices_trained"] is True
    assert (saved / "card.md").read_text() == "# card\n"
    header = (saved / "model.safetensors").read_bytes()
    assert header[8:9] == b"{"  # safetensors: eight bytes of length, then JSON; a pickle or zip begins otherwise


def test_a_bundle_says_whether_its_slice_head_was_trained(bundle: Path, tmp_path: Path) -> None:
    model = tiny_classifier(aggregator=GatedAttention(WIDTH, 5))
    save_bundle(model, GATED, tmp_path / "other", {}, "# card\n", slices_trained=False)
    assert load_bundle(tmp_path / "other")[1]["slices_trained"] is False
    config = json.loads((bundle / "config.json").read_text())
    del config["slices_trained"]  # as version 0.1.0 wrote it
    (bundle / "config.json").write_text(json.dumps(config))
    assert load_bundle(bundle)[1]["slices_trained"] is True


def edit(bundle: Path, **changes: Any) -> None:
    path = bundle / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.Popen", "system", "lungtl"])
def test_classes_from_elsewhere_are_not_built(bundle: Path, target: str) -> None:
    edit(bundle, aggregator={parts.TARGET: target, "command": "touch /tmp/evil"})
    with pytest.raises(LungtlError, match="is not a lungtl Aggregator"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "target",
    ["lungtl.settings.parts.importlib.import_module", "lungtl.nowhere.Class", "lungtl.models.aggregators.mean.Nothing"],
)
def test_what_lungtl_does_not_have_is_a_damaged_bundle(bundle: Path, target: str) -> None:
    edit(bundle, aggregator={parts.TARGET: target})
    with pytest.raises(LungtlError):
        load_bundle(bundle)


CONTENTS = {
    name: f"the content of {name}".encode()
    for name in (CALIBRATION, UNTRAINED, PROBE, COVARIATES, SEEN, RANGES, REFERENCE, CARD_DATA)
}
"""Of files whose checksum is compared before they are read."""


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_in_any_file_is_noticed(saved: Path, tmp_path: Path, name: str) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "bundle"))
    for file, content in CONTENTS.items():
        (folder / file).write_bytes(content)
    write_checksums(folder, FILES)
    load_bundle(folder)
    altered = bytearray((folder / name).read_bytes())
    altered[-5] ^= 1  # in config.json a digit or space, in the weights a mantissa
    (folder / name).write_bytes(altered)
    with pytest.raises(LungtlError, match=rf"{name} was altered: its SHA-256"):
        load_bundle(folder)
    (folder / name).unlink()
    with pytest.raises(LungtlError, match=rf"{name} was altered|is not a bundle"):
        load_bundle(folder)


def test_a_card_may_be_annotated(saved: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved, tmp_path / "bundle"))
    (folder / "card.md").rename(folder / "README.md")  # as the first bundles call it
    (folder / "README.md").write_text("# my notes")
    load_bundle(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": {"name": "vit_giant_patch14_224", "features": "last", "in_chans": 3}},
        {"backbone": {"name": "test_resnet", "features": "last", "in_chans": 10**6}},
        {"head": {"width": 10**9, "dropout": 0.0}},
        {"aggregator": {**GATED, "hidden": 10**9}},
    ],
    ids=["network", "channels", "width", "aggregator"],
)
def test_a_network_much_larger_than_its_weights_is_not_built(bundle: Path, changes: dict[str, Any]) -> None:
    edit(bundle, **changes)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(LungtlError, match="damaged"):
        load_bundle(bundle)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1.5e6  # kB


@pytest.mark.parametrize("changes", [{"size": 0}, {"size": 10**6}, {"crop": -5}])
def test_sizes_that_cannot_be_are_named(bundle: Path, changes: dict[str, int]) -> None:
    config = json.loads((bundle / "config.json").read_text())
    edit(bundle, preprocessing=config["preprocessing"] | changes)
    with pytest.raises(LungtlError, match=rf"preprocessing\.{next(iter(changes))}"):
        load_bundle(bundle)
    edit(bundle, preprocessing=config["preprocessing"], provenance={"crop": []})
    with pytest.raises(LungtlError, match=r"provenance\.crop"):
        load_bundle(bundle)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def test_half_a_weights_file(bundle: Path) -> None:
    truncate(bundle / "model.safetensors")
    with pytest.raises(LungtlError, match=r"is a damaged bundle \(.+\); fetch it again") as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


def test_an_empty_weights_file(bundle: Path) -> None:
    (bundle / "model.safetensors").write_bytes(b"")
    with pytest.raises(LungtlError, match="damaged"):
        load_bundle(bundle)


def test_half_a_config(bundle: Path) -> None:
    truncate(bundle / "config.json")
    with pytest.raises(LungtlError, match="damaged"):
        load_bundle(bundle)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "test_resnet_that_never_was"},
        {"backbone": "test_vit"},
        {"preprocessing": {"windows": []}},
        {"aggregator": BY_MAX},
        {"aggregator": {**GATED, "width": 3}},
        {"aggregator": None},
    ],
)
def test_a_config_that_does_not_fit_the_weights(bundle: Path, changes: dict[str, Any]) -> None:
    edit(bundle, **changes)
    with pytest.raises(LungtlError) as error:
        load_bundle(bundle)
    assert "\n" not in str(error.value)


def test_a_config_that_is_no_mapping(bundle: Path) -> None:
    (bundle / "config.json").write_text("[1, 2]")
    with pytest.raises(LungtlError, match="is not a bundle of lungtl"):
        load_bundle(bundle)


def test_another_format(bundle: Path) -> None:
    edit(bundle, format=99)
    with pytest.raises(LungtlError, match="bundle format 99, this lungtl reads 1; install a newer lungtl"):
        load_bundle(bundle)


def test_a_config_of_another_library(bundle: Path) -> None:
    (bundle / "config.json").write_text(json.dumps({"model_type": "vit", "architectures": ["ViTModel"]}))
    with pytest.raises(LungtlError, match=r"is not a bundle of lungtl \(config\.json has no format\)"):
        load_bundle(bundle)


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors"])
def test_a_folder_that_is_no_bundle(bundle: Path, missing: str) -> None:
    (bundle / missing).unlink()
    with pytest.raises(LungtlError, match="is not a bundle"):
        load_bundle(bundle)


def test_the_card_says_what_it_must() -> None:
    settings = {"dataset": "phantom", "field_mm": None, "weights_split_fingerprint": "", "parts": {"loss": "x"}}
    card = model_card("run 7", settings, [("metric", "value"), ("AUROC", "0.8 [0.7, 0.9]")])
    assert card.startswith("# run 7\n")
    assert "not a medical device" in card
    assert [line for line in card.splitlines() if line.startswith("- ")] == ["- dataset: phantom"]
    assert "synthetic" not in card
    assert "**A model trained on synthetic scans (phantoms)" in model_card("run 7", settings, phantom=True)
    assert "bootstrap over patients; DeLong's where named and for gains; exact for rates of 0 and 1" in card
    assert "| metric | value |\n| --- | --- |\n| AUROC | 0.8 [0.7, 0.9] |\n" in card
