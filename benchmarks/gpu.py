"""`make bench-gpu`: throughput on a GPU, compared with timm's own benchmark on the same card in the same run.

Fine-tuning is `lungtl train` in bfloat16: loader, windows, resize, network, loss, optimiser, log. The frozen pass is
that of the feature cache: read a store, embed it, write the features. timm's `benchmark.py` is not part of its package,
so its `TrainBenchmarkRunner` and `InferenceBenchmarkRunner` are repeated here: the whole model with its classifier,
nothing folded, over one random batch on the device, after a warm-up; in training with cross-entropy against random
classes and SGD.

`python -m benchmarks.gpu` writes benchmarks/gpu.csv and requires a CUDA device.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.measure import Measure, Row, alternate, compared, stopwatch, with_torch_defaults
from benchmarks.passes import throughput, timm_model
from benchmarks.setting import RANDOM, Setting
from benchmarks.step import finished, trained

if TYPE_CHECKING:
    import torch

FINE_TUNING, FROZEN_PASS = 0.9, 0.85
"""Targets, as shares of timm's throughput."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        backbones: the options of `backbone=`.
        pixels: height and width of the images.
        scans: number of scans in the phantom.
        bags: per training step.
        slices: per bag in a training step.
        warm_up: steps that are not timed.
        steps: that are timed.
        repeats: of each measurement.
    """

    backbones: tuple[str, ...] = ("resnet50", "vit_small")
    pixels: int = 224
    scans: int = 240
    bags: int = 8
    slices: int = 32
    warm_up: int = 5
    steps: int = 10
    repeats: int = 3


def compare(scale: Scale, device: torch.device) -> list[Row]:
    """Fine-tuning and the frozen pass of each backbone, compared with timm."""
    with tempfile.TemporaryDirectory() as folder:
        return [
            row
            for name in scale.backbones
            for row in (
                _fine_tuning(Path(folder), name, scale, device),
                _frozen_pass(Path(folder), name, scale, device),
            )
        ]


def _setting(data_dir: Path, name: str, scale: Scale, device: torch.device, *overrides: str) -> Setting:
    return Setting(
        data_dir, f"backbone={name}", RANDOM, "backbone.features=last", f"image.size={scale.pixels}",
        f"dataset.scans={scale.scans}", f"dataset.z_range_mm={scale.slices + 2}", f"image.train_slices={scale.slices}",
        f"trainer.batch_size={scale.bags}", "trainer.max_epochs=1", "trainer.precision=bf16-mixed",
        f"trainer.accelerator={'gpu' if device.type == 'cuda' else 'cpu'}", *overrides,
    )  # fmt: skip


def _fine_tuning(data_dir: Path, name: str, scale: Scale, device: torch.device) -> Row:
    limit = f"trainer.limit_batches={scale.warm_up + scale.steps}"
    setting = _setting(data_dir, name, scale, device, "freezing=full", "cache.enabled=false", limit)
    batch = scale.bags * scale.slices
    theirs = timm_training(setting.module.classifier.backbone.name, scale, device)
    ours, timm = alternate(lambda: trained(setting, scale.warm_up), with_torch_defaults(theirs), repeats=scale.repeats)
    return _row(f"fine-tuning in bfloat16, {name}, {scale.pixels} px", batch, ours, timm, FINE_TUNING, device)


def timm_training(name: str, scale: Scale, device: torch.device) -> Measure:
    """Seconds per step when timm's benchmark trains a model in bfloat16."""
    import torch

    batch = scale.bags * scale.slices
    model = timm_model(name).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, nesterov=True)
    images = torch.randn(batch, 3, scale.pixels, scale.pixels, device=device).contiguous(
        memory_format=torch.channels_last
    )

    def step() -> None:
        optimizer.zero_grad()
        with torch.autocast(device.type, torch.bfloat16):
            output = model(images)
        classes = torch.empty(batch, device=device, dtype=torch.long).random_(output.shape[1])
        torch.nn.functional.cross_entropy(output, classes).backward()
        optimizer.step()

    def measure() -> float:
        for _ in range(scale.warm_up):
            step()
        start = finished(device)
        for _ in range(scale.steps):
            step()
        return (finished(device) - start) / scale.steps

    return measure


def _frozen_pass(data_dir: Path, name: str, scale: Scale, device: torch.device) -> Row:
    from lungtl.training.feature_cache import cached_features

    setting = _setting(data_dir, name, scale, device, "cache.enabled=false")
    classifier, count = setting.module.classifier.to(device), len(setting.store.slices)
    model = timm_model(classifier.backbone.name).to(device)
    images = throughput(model, classifier.chunk, scale.pixels, count, device)

    def embed() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cached_features(classifier, setting.store, Path(folder), device, "")
        finished(device)

    def pass_images() -> None:
        images()
        finished(device)

    ours, timm = alternate(stopwatch(embed), with_torch_defaults(stopwatch(pass_images)), repeats=scale.repeats)
    return _row(f"frozen pass over a store, {name}, {scale.pixels} px", count, ours, timm, FROZEN_PASS, device)


def _row(what: str, images: int, ours: float, timm: float, target: float, device: torch.device) -> Row:
    import torch

    card = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return compared(what, ours, "timm's benchmark", timm, target) | {
        "images_per_second": f"{images / ours:.0f}", "device": card, "torch": torch.__version__,
    }  # fmt: skip


def main() -> None:
    """Measure on the first CUDA device and write the table."""
    import pandas as pd
    import torch

    if not torch.cuda.is_available():
        sys.exit("error: torch finds no CUDA device; run make bench-gpu on a machine with one")
    table = pd.DataFrame(compare(Scale(), torch.device("cuda")))
    table.to_csv(Path(__file__).with_suffix(".csv"), index=False)
    print(table.to_string(index=False))


if __name__ == "__main__":
    main()
