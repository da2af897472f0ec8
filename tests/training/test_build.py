from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from lungtl.bundle import load_bundle, save_bundle
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.lp_ft import LpFt
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.settings.sections import ImageConfig
from lungtl.training.build import build_classifier, starting_weights
from lungtl.training.fit import seed_everything
from lungtl.training.plan import trainable_share
from tests.models.tiny import noise_frames, tiny_classifier
from tests.training.test_fit import config_of

FROM_SCRATCH = {parts.TARGET: "lungtl.models.freezing.from_scratch.FromScratch"}


def scratch_config(folder: Path, **backbone: str) -> TrainConfig:
    config = config_of(folder)
    return config.model_copy(update={"freezing": FROM_SCRATCH, "backbone": {**config.backbone, **backbone}})


def test_from_scratch_starts_from_random_weights_of_the_seed(tmp_path: Path) -> None:
    # by itself, auto would take this network's ImageNet weights from their package
    config = scratch_config(tmp_path, name="tf_efficientnet_lite0", weights="auto")
    stems = []
    for seed in (0, 0, 1):
        seed_everything(seed)
        backbone = build_classifier(config, None).backbone
        assert backbone.loaded_weights.source == "none"
        stems.append(backbone.get_parameter("net.conv_stem.weight"))
    assert torch.equal(stems[0], stems[1])
    assert not torch.equal(stems[0], stems[2])


def test_other_strategies_leave_the_weights_to_the_user(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    assert starting_weights(config) == "auto"
    assert starting_weights(config.model_copy(update={"backbone": {**config.backbone, "weights": "hub"}})) == "hub"


@pytest.mark.parametrize("weights", ["hub", "wheel", "/x.safetensors"])
def test_from_scratch_refuses_other_weights(tmp_path: Path, weights: str) -> None:
    with pytest.raises(UsageError, match=f"backbone.weights={weights}: FromScratch requires backbone.weights=none"):
        starting_weights(scratch_config(tmp_path, weights=weights))


def test_from_scratch_and_random_weights_agree(tmp_path: Path) -> None:
    assert starting_weights(scratch_config(tmp_path, weights="none")) == "none"
    assert starting_weights(scratch_config(tmp_path)) == "none"


def test_groups_unfrozen_after_the_end_do_not_count_and_cause_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    classifier = tiny_classifier()
    blocks = classifier.backbone.blocks()
    last = sum(classifier.backbone.get_parameter(name).numel() for name in blocks[-1].parameters)
    probe, total = trainable_share(classifier, Frozen(), 1)
    assert trainable_share(classifier, Gradual(every=1), len(blocks) + 1) == (total, total)
    assert not caplog.records
    # blocks are unfrozen at epochs 3, 6, ...: the run has 0 to 5
    assert trainable_share(classifier, Gradual(every=3), 6) == (probe + last, total)
    late = len(blocks) - 1
    assert (
        f"Gradual: {late} of {len(blocks)} groups unfreeze only after the last epoch (trainer.max_epochs=6);"
        in caplog.text
    )
    assert trainable_share(classifier, LpFt(probe_epochs=6), 6) == (total, total)
    assert (
        "LpFt: 1 of 1 groups unfreeze only after the last epoch (trainer.max_epochs=6), unless validation"
        in caplog.text
    )


@pytest.mark.parametrize("channels", [1, 2])
def test_another_number_of_channels_reaches_cut_and_bundle(tmp_path: Path, channels: int) -> None:
    config = config_of(tmp_path)
    image = {**config.image.model_dump(), "channels": channels, "windows": ["lung", "wide"][:channels]}
    backbone = {**config.backbone, "weights": "none"}
    config = TrainConfig.model_validate({**config.model_dump(), "image": image, "backbone": backbone})
    classifier = build_classifier(config, None).eval()
    assert classifier.backbone.in_chans == channels
    classifier.cut(2)
    save_bundle(classifier, config.aggregator, tmp_path / "bundle", {}, "# card\n")
    loaded, _ = load_bundle(tmp_path / "bundle")
    bags = [noise_frames(4), noise_frames(1, seed=1)]
    with torch.no_grad():
        expected, found = classifier(bags), loaded(bags)
        rows = [classifier.split.prefix(classifier.preprocessor(bag)) for bag in bags]
        torch.testing.assert_close(classifier.classify(rows).bag_logits, expected.bag_logits)
    assert torch.equal(found.bag_logits, expected.bag_logits)


@pytest.mark.parametrize(
    ("channels", "windows", "neighbours"),
    [(1, ["lung", "wide"], False), (3, ["lung", "wide"], False), (5, "auto", True)],
)
def test_the_number_of_channels_must_match_the_windows(
    tmp_path: Path, channels: int, windows: list[str] | str, neighbours: bool
) -> None:
    image = config_of(tmp_path).image.model_dump()
    with pytest.raises(ValidationError, match=r"one window|one per channel"):
        ImageConfig.model_validate({**image, "channels": channels, "windows": windows, "neighbours": neighbours})
