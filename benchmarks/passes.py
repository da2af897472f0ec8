"""The frozen pass: which settings are fastest, and how it compares with timm's own benchmark.

timm's `benchmark.py` is not part of its package, so its `InferenceBenchmarkRunner` is repeated here: the whole model
with its classifier, in inference mode, nothing folded, over one random batch at the model's own input size in float32,
after a warm-up. timm leaves batch size and memory format to the user: here the format is channels-last, and the fastest
batch size counts.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Measure, Row, alternate, compared, stopwatch, with_default_allocator, with_torch_defaults
from benchmarks.setting import RANDOM, Setting

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BACKBONES = {"efficientnet_lite0": (), "resnet18": (RANDOM,), "vit_tiny": (RANDOM,)}
BATCHES = (8, 16, 32)
IMAGES = 64
REPEATS = 3
TARGET = 0.95
"""Share of timm's throughput."""
WHOLE = "backbone.features=last"  # `stages` would omit timm's last layers


def compare() -> list[Row]:
    """Lungtl's settings against others, one row each; then the pass over a store against timm."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            name: Setting(Path(folder), f"backbone={name}", "cache.enabled=false", WHOLE, *own)
            for name, own in BACKBONES.items()
        }
        return [row for name, setting in settings.items() for row in (*_settings(name, setting), _store(name, setting))]


def _settings(name: str, setting: Setting) -> list[Row]:
    """Chunk, folding, memory format, inference mode, allocator and threads, one changed at a time."""
    import torch

    classifier = setting.module.classifier.eval()
    size, chunk, threads = classifier.preprocessor.size, classifier.chunk, torch.get_num_threads()
    images = torch.randn(IMAGES, 3, size, size)
    backbone: Callable[[Tensor], Tensor] = classifier.backbone

    def timed(
        batch: int = chunk,
        layout: torch.memory_format = torch.channels_last,
        mode: Callable[[], AbstractContextManager[Any]] = torch.inference_mode,
        count: int = threads,
        folding: Callable[[], AbstractContextManager[None]] = classifier.folded,
    ) -> Measure:
        def work() -> None:
            torch.set_num_threads(count)
            with mode():
                for part in images.split(batch):
                    backbone(part)
            torch.set_num_threads(threads)

        def measure() -> float:
            for parameter in classifier.backbone.parameters():  # not timed
                if parameter.ndim == 4:
                    parameter.data = parameter.data.contiguous(memory_format=layout)
            with mode(), folding():
                return stopwatch(work)()

        return measure

    others = {f"in chunks of {batch}": timed(batch) for batch in BATCHES if batch != chunk}
    others["with batch norms not folded"] = timed(folding=nullcontext)
    others["with weights not channels-last"] = timed(layout=torch.contiguous_format)
    others["under no_grad"] = timed(mode=torch.no_grad)
    others["with freed memory returned"] = with_default_allocator(timed())
    others["on one thread"] = timed(count=1)
    seconds = alternate(timed(), *others.values(), repeats=REPEATS)
    what = f"{IMAGES} slices, {name}: chunks of {chunk}, channels-last, folded, inference mode, {threads} threads"
    return [compared(what, seconds[0], other, own) for other, own in zip(others, seconds[1:], strict=True)]


def _store(name: str, setting: Setting) -> Row:
    """The whole frozen pass (reading, windows, resize, backbone, writing) against timm on random images."""
    from lungtl.training.feature_cache import cached_features

    count = len(setting.store.slices)
    classifier = setting.module.classifier

    def frozen_pass() -> None:
        with tempfile.TemporaryDirectory() as folder:
            cached_features(classifier, setting.store, Path(folder), setting.device, "")

    model, batches = timm_model(classifier.backbone.name), list(BATCHES)
    runs = [throughput(model, batch, classifier.preprocessor.size, count, setting.device) for batch in batches]
    ours, *theirs = alternate(stopwatch(frozen_pass), *(with_torch_defaults(stopwatch(run)) for run in runs))
    best = min(range(len(batches)), key=lambda i: theirs[i])
    against = f"timm's benchmark, batch {batches[best]}"
    return compared(f"frozen pass over a store, {count} slices, {name}", ours, against, theirs[best], TARGET)


def timm_model(name: str) -> Any:
    """The model as timm benchmarks it: random weights, its classifier, channels-last, evaluation mode."""
    import timm
    import torch

    model: Any = timm.create_model(name)
    return model.eval().to(memory_format=torch.channels_last)


def throughput(model: Any, batch: int, size: int, images: int, device: torch.device) -> Callable[[], None]:
    """Pass one random batch repeatedly until `images` have passed; the last one may be smaller."""
    import torch

    example = torch.randn(batch, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)

    def work() -> None:
        with torch.inference_mode():
            for start in range(0, images, batch):
                model(example[: images - start])

    return work
