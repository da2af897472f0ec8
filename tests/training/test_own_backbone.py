"""A user's own backbone class goes through training, feature cache, freezing and prediction like timm's models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.bitfit import BitFit
from lungtl.models.freezing.from_scratch import FromScratch
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.models.freezing.layer_decay import LayerDecay
from lungtl.models.freezing.lora import Lora
from lungtl.models.freezing.norm_only import NormOnly
from lungtl.models.gradcam import slice_heatmaps
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.plan import training_plan
from lungtl.training.untrained import train_untrained
from tests.models.tiny import noise_frames
from tests.training.test_cached_runs import configured, run, store  # noqa: F401  # store is a fixture
from tests.training.test_fit import split_of

SIZE = 32


class OwnBackbone(Backbone):
    """Three blocks, without an attribute `net` and without anything of timm."""

    def __init__(self, name: str, weights: str, features: str = "last", in_chans: int = 3, width: int = 6) -> None:
        super().__init__(name, features, in_chans)
        self.stem = nn.Sequential(nn.Conv2d(in_chans, width, 3, stride=4), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU())
        self.last = nn.Linear(width, 5)
        self.dim = 5

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.last(self.body(self.stem(images)).mean(dim=(2, 3)))
        return embeddings


def own_config(folder: Path) -> TrainConfig:
    config = configured(folder, "last")
    target = f"{OwnBackbone.__module__}.{OwnBackbone.__name__}"
    return config.model_copy(
        update={"backbone": {parts.TARGET: target, "name": "own", "weights": "none", "features": "last", "width": 4}}
    )


def test_blocks_and_defaults() -> None:
    backbone = OwnBackbone("own", "none", in_chans=1)
    assert [block.name for block in backbone.blocks()] == ["stem.0", "stem.1", "body.0", "body.1", "last"]
    held = [name for block in backbone.blocks() for name in block.parameters]
    assert held == [name for name, _ in backbone.named_parameters()]
    assert backbone.mean == pytest.approx((0.449,))
    assert backbone.fingerprint() == backbone.fingerprint() != OwnBackbone("own", "none", in_chans=1).fingerprint()


@pytest.mark.parametrize(
    "freezing",
    [Frozen(), FromScratch(), Full(), BitFit(), NormOnly(), LastBlocks(1), LastBlocks(2), LayerDecay(), Gradual(1)],
    ids=lambda freezing: type(freezing).__name__,
)
def test_it_trains_with_every_strategy_and_the_cache_changes_no_number(
    store: Store,  # noqa: F811
    tmp_path: Path,
    freezing: FreezingStrategy,
) -> None:
    config = own_config(tmp_path)
    cached = run(store, config, freezing, tmp_path / "cached")
    no_cache = config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": False})})
    plain = run(store, no_cache, freezing, tmp_path / "plain")
    assert plain.features is None
    assert (cached.features is not None) == (freezing.frozen_blocks(cached.classifier.backbone) > 0)
    torch.testing.assert_close(cached.probabilities, plain.probabilities, rtol=0, atol=1e-5)
    rows = training_plan(cached.classifier, freezing, lr=0.1, max_epochs=3)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in cached.classifier.parameters())


def test_lora_adapts_and_merges(tmp_path: Path) -> None:
    backbone = OwnBackbone("own", "none").eval()
    names = list(backbone.state_dict())
    images = torch.randn(2, 3, SIZE, SIZE)
    before = backbone(images)
    strategy = Lora(rank=2)
    strategy.adapt(backbone)
    (group,) = strategy.groups(backbone)
    assert [name.partition(".lora_")[0] for name in group.parameters] == ["last", "last"]
    strategy.merge(backbone)
    assert list(backbone.state_dict()) == names
    torch.testing.assert_close(backbone(images), before)


def test_the_untrained_control_works(store: Store, tmp_path: Path) -> None:  # noqa: F811
    control = train_untrained(own_config(tmp_path), store, split_of(store), BagAndSliceLoss(), torch.device("cpu"))
    assert control is not None


def test_heatmaps_are_refused_in_one_line(store: Store, tmp_path: Path) -> None:  # noqa: F811
    classifier = run(store, own_config(tmp_path), Frozen(), tmp_path).classifier
    with pytest.raises(LungtlError, match="no heatmaps of own: it has no pooling layer"):
        slice_heatmaps(classifier, noise_frames(2), [0])
