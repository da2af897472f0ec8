"""lungtl's training step beside a bare PyTorch loop and bare Lightning that do the same work."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measure import Row, as_torch_is, by_turns, compared, giving_memory_back
from benchmarks.setting import Setting

if TYPE_CHECKING:
    import torch

# what trains decides how long a step is, and so what share of it is lungtl's and Lightning's own
CASES = {
    "full": ("freezing=full", "image.train_slices=4", "dataset.scans=64"),
    "last_blocks n=1, cached": ("freezing=last_blocks", "freezing.n=1", "dataset.scans=64"),
    # a step is short: many of them, on features that are soon computed and as wide as those of larger images
    "frozen, cached": ("freezing=frozen", "dataset.scans=512", "image.size=64"),
}
MOST = 1.05  # times the bare loop's seconds


def compare(*overrides: str) -> list[Row]:
    """Two rows a case, a step of `lungtl.train` against both; and one of what keeping freed memory saves."""
    with tempfile.TemporaryDirectory() as folder:
        settings = {
            name: Setting(Path(folder), "trainer.max_epochs=1", *case, *overrides) for name, case in CASES.items()
        }
        return [row for name, setting in settings.items() for row in _case(name, setting)] + [
            _given_back("full", settings["full"])
        ]


def _case(name: str, setting: Setting) -> list[Row]:
    ours, bare, lightning = by_turns(
        lambda: trained(setting), as_torch_is(lambda: bare_loop(setting)), lambda: bare_lightning(setting)
    )
    what = f"training step, {name}"
    return [
        compared(what, ours, "a bare PyTorch loop", bare, 1 / MOST),
        compared(what, ours, "bare Lightning", lightning),
    ]


def _given_back(name: str, setting: Setting) -> Row:
    kept, given_back = by_turns(lambda: trained(setting), giving_memory_back(lambda: trained(setting)))
    return compared(f"training step, {name}", kept, "with freed memory given back", given_back)


def trained(setting: Setting, warm_up: int = 1) -> float:
    """Seconds a step in the first epoch of `lungtl.train`, the first few left out."""
    from lungtl.training.fit import fit

    module, ends = setting.module, []
    own_hook = module.on_train_batch_end

    def tell(outputs: Any, batch: Any, batch_idx: int) -> None:
        own_hook(outputs, batch, batch_idx)
        if batch_idx + 1 in (warm_up, module.trainer.num_training_batches):
            ends.append(finished(setting.device))

    module.on_train_batch_end = tell  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            fit(module, setting.data, setting.config.trainer, Path(folder), lambda *_: None, resume=False)
    finally:
        del module.on_train_batch_end
    first, last = ends
    return (last - first) / (int(module.trainer.num_training_batches) - warm_up)


def bare_loop(setting: Setting) -> float:
    """Likewise of a loop over the same loader on a CPU: forward, loss, backward, clip, step."""
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
    """Likewise of Lightning's trainer on a CPU with no callback, progress bar, log or checkpoint."""
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
    """The time when all that was asked of a device so far is done."""
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
