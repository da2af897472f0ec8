"""Small networks that the tests build, the same at every call."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import torch
from torch import Tensor

from lungtl.data.bags import Batch, Sample, collate
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.aggregators.attention import Attention
from lungtl.models.aggregators.base import Aggregator
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.slice_projection import SliceProjection
from lungtl.settings.parts import TARGET

LUNG = ((-600.0, 1500.0),)
WIDTH = 16  # of the projection


def tiny_backbone(seed: int = 0, name: str = "test_resnet", size: int = 32) -> TimmBackbone:
    """Random weights that let signal through; batch-norm statistics unlike those of any batch, so that use shows."""
    backbone, random_state = _built(seed, name, size)
    torch.set_rng_state(random_state)
    return deepcopy(backbone)


@cache
def _built(seed: int, name: str, size: int) -> tuple[TimmBackbone, Tensor]:
    """The backbone, which takes long to draw, and the random state that follows."""
    torch.manual_seed(seed)
    backbone = TimmBackbone(name, weights="none")
    backbone.set_input_size(size)
    for key, buffer in backbone.named_buffers():
        if key.endswith("running_mean"):
            buffer.uniform_(-0.05, 0.05)
        elif key.endswith("running_var"):
            buffer.uniform_(0.3, 0.9)
    with torch.no_grad():
        for key, parameter in backbone.named_parameters():
            if parameter.ndim == 1 and key.endswith("weight"):  # timm starts some at zero
                parameter.uniform_(0.5, 1.5)
    return backbone, torch.get_rng_state()


def tiny_classifier(
    seed: int = 0,
    aggregator: Aggregator | None = None,
    name: str = "test_resnet",
    size: int = 32,
    chunk: int | None = 64,
) -> BagClassifier:
    backbone = tiny_backbone(seed, name, size)
    preprocessor = SlicePreprocessor(LUNG, False, size, None, backbone.mean, backbone.std)
    projection = SliceProjection(backbone.dim, WIDTH, dropout=0.1)
    aggregator = aggregator or Attention(WIDTH, hidden=8)
    return BagClassifier(preprocessor, backbone, projection, aggregator, chunk).eval()


def noise_frames(count: int, size: int = 32, seed: int = 0) -> Tensor:
    """int16 [count, 1, size, size] between -1400 and 200 HU."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1400, 200, (count, 1, size, size), dtype=torch.int16, generator=generator)


def noise_batch(lengths: tuple[int, ...] = (3, 2), size: int = 32) -> Batch:
    """Bags of noise; every other one is positive, its first slice malignant."""
    samples = []
    for i, count in enumerate(lengths):
        labels = torch.zeros(count, dtype=torch.int64)
        labels[0] = 2 * (i % 2)
        samples.append(Sample(f"b{i}", i % 2, labels, torch.arange(count), None, noise_frames(count, size, seed=i)))
    return collate(samples)


def adamw(lr: float = 1e-2, weight_decay: float = 0.01) -> dict[str, Any]:
    """Config of the optimiser."""
    return {TARGET: "torch.optim.AdamW", "lr": lr, "weight_decay": weight_decay}


def sgd(lr: float, momentum: float = 0.0, weight_decay: float = 0.01) -> dict[str, Any]:
    return {TARGET: "torch.optim.SGD", "lr": lr, "momentum": momentum, "weight_decay": weight_decay}


def constant(warmup_epochs: int = 0) -> dict[str, Any]:
    """Config of the schedule."""
    return {TARGET: "lungtl.training.schedules.Constant", "warmup_epochs": warmup_epochs}


def cosine(warmup_epochs: int = 0) -> dict[str, Any]:
    return {TARGET: "lungtl.training.schedules.Cosine", "warmup_epochs": warmup_epochs}
