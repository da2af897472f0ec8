"""What an epoch of `lungtl train` costs: each freezing strategy next to training everything, and without the cache."""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.measure import Row, alternate, compared
from benchmarks.setting import RANDOM, Setting

EPOCHS = ("trainer.max_epochs=2", "trainer.patience=null")  # the second one is timed
STRATEGIES = ("frozen", "last_blocks", "norm_only", "bitfit", "lora", "layer_decay", "from_scratch")
BACKBONES = {"efficientnet_lite0": (), "resnet18": (RANDOM,), "vit_tiny": (RANDOM,)}
REPEATS = 3
DEMO = "dataset.scans=160"  # as in `make demo`
LEAST_FROZEN, LEAST_LAST_BLOCKS = 50, 3
"""Targets: how many times faster an epoch is, at least."""


def compare() -> list[Row]:
    """Frozen on the phantom of the demo; on a smaller one, one and two training blocks, then all strategies."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [_epoch(Path(folder), "frozen", "efficientnet_lite0", LEAST_FROZEN, 1, DEMO)]
        for blocks in (1, 2):
            strategy = ("freezing=last_blocks", f"freezing.n={blocks}")
            title = f"last_blocks n={blocks}"
            rows += [
                _epoch(Path(folder), title, name, LEAST_LAST_BLOCKS, REPEATS, *strategy, *options)
                for name, options in BACKBONES.items()
            ]
        return rows + _strategies(Path(folder))


def _strategies(data_dir: Path) -> list[Row]:
    """The strategies whose epochs are all alike, with EfficientNet-Lite0."""
    weights = {"from_scratch": (RANDOM,)}
    settings = [
        Setting(data_dir, "backbone=efficientnet_lite0", f"freezing={name}", *weights.get(name, ()), *EPOCHS)
        for name in ("full", *STRATEGIES)
    ]
    full, *others = alternate(*(setting.epoch for setting in settings), repeats=1)
    slices = len(settings[0].store.slices)
    return [
        compared(f"epoch, {name}, efficientnet_lite0, {slices} slices", seconds, "full", full)
        for name, seconds in zip(STRATEGIES, others, strict=True)
    ]


def _epoch(data_dir: Path, title: str, backbone: str, target: float, repeats: int, *overrides: str) -> Row:
    cached, uncached = (
        Setting(data_dir, f"backbone={backbone}", *overrides, *EPOCHS, f"cache.enabled={enabled}")
        for enabled in (True, False)
    )
    if cached.features is None:
        raise RuntimeError(f"{title} {backbone}: nothing is cached; there is nothing to compare")
    seconds = alternate(cached.epoch, uncached.epoch, repeats=repeats)
    what = f"epoch, {title}, {backbone}, {len(cached.store.slices)} slices, cached"
    return compared(what, seconds[0], "without the cache", seconds[1], target)
