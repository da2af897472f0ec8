"""lungtl's training step compared with a bare PyTorch loop and bare Lightning that do the same work."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Row, alternate, compared, with_default_allocator, with_torch_defaults
from benchmarks.setting import Setting

if TYPE_CHECKING:
    import torch

# the longer a step, the smaller the share of lungtl's and Lightning's overhead
CASES = {
    "full": ("freezing=full", "image.train_slices=4", "dataset.scans=64"),
    "last_blocks n=1, cached": ("freezing=last_blocks", "freezing.n=1", "dataset.scans=64"),
    # short steps: many of them, on small images whose features are quickly computed and of the same size
    "frozen, cached": ("freezing=frozen", "dataset.scans=512", "image.size=64"),
}
MAX_SLOWDOWN = 1.05  # target: at most this many times the bare loop's seconds


def compare(*overrides: str) -> list[Row]:
    """Two rows per case, a step of `lungtl train` against both loops; and one row for keeping freed memory."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            name: Setting(Path(folder), "trainer.max_epochs=1", *case, *overrides) for name, case in CASES.items()
        }
        return [row for name, setting in settings.items() for row in _case(name, setting)] + [
            _memory_returned("full", settings["full"])
        ]


def _case(name: str, setting: Setting) -> list[Row]:
    ours, bare, lightning = alternate(
        lambda: trained(setting), with_torch_defaults(lambda: bare_loop(setting)), lambda: bare_lightning(setting)
    )
    what = f"training step, {name}"
    return [
        compared(what, ours, "a bare PyTorch loop", bare, 1 / MAX_SLOWDOWN),
        compared(what, ours, "bare Lightning", lightning),
    ]


def _memory_returned(name: str, setting: Setting) -> Row:
    kept, returned = alternate(lambda: trained(setting), with_default_allocator(lambda: trained(setting)))
    return compared(f"training step, {name}", kept, "with freed memory returned", returned)


def trained(setting: Setting, warm_up: int = 1) -> float:
    """Seconds per step in the first epoch of `lungtl train`, without the first few."""
    from lungtl.training.fit import fit

    module, ends = setting.module, []
    own_hook = module.on_train_batch_end

    def record_end(outputs: Any, batch: Any, batch_idx: int) -> None:
        own_hook(outputs, batch, batch_idx)
        if batch_idx + 1 in (warm_up, module.trainer.num_training_batches):
            ends.append(finished(setting.device))

    module.on_train_batch_end = record_end  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(module, setting.data, setting.config.trainer, Path(folder), lambda *_: None, resume=False)
    finally:
        del module.on_train_batch_end
    first, last = ends
    return (last - first) / (int(module.trainer.num_training_batches) - warm_up)


def bare_loop(setting: Setting) -> float:
    """Seconds per step of a loop over the same loader on a CPU: forward, loss, backward, clip, step."""
    import torch

    module, clip = setting.module, setting.config.trainer.clip_norm
    module.train()
    optimizer = module.configure_optimizers()["optimizer"]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    ends = []
    for batch in setting.data.train_dataloader():
        loss = module.loss.combined(module.loss.parts(module(batch), batch.bag_labels, batch.slice_labels))
        optimizer.zero_grad()
        loss.backward()
        if clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clip)
        optimizer.step()
        ends.append(time.perf_counter())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def bare_lightning(setting: Setting) -> float:
    """Seconds per step of Lightning's trainer on a CPU without callbacks, progress bar, log or checkpoint."""
    import pytorch_lightning as pl

    module, ends = setting.module, []

    class Bare(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner = module

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            loss: torch.Tensor = module.loss.combined(
                module.loss.parts(module(batch), batch.bag_labels, batch.slice_labels)
            )
            return loss

        def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
            ends.append(time.perf_counter())

        def configure_optimizers(self) -> Any:
            return module.configure_optimizers()

    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", gradient_clip_val=setting.config.trainer.clip_norm, deterministic=True,
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(Bare().train(), setting.data.train_dataloader())
    return (ends[-1] - ends[0]) / (len(ends) - 1)


def finished(device: torch.device) -> float:
    """The time after the device has finished all queued work."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
