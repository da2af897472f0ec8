from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from benchmarks.setting import Setting
from benchmarks.step import bare_lightning, bare_loop, trained

TINY = (
    "image.size=32", "dataset.scans=12", "trainer.batch_size=2", "trainer.max_epochs=1", "head.dropout=0",
    "schedule.warmup_epochs=0",
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("loop", [bare_loop, bare_lightning])
def test_both_loops_do_the_same_work(tmp_path: Path, loop: Callable[[Setting], float]) -> None:
    """After an epoch of either the weights are the same: same batches, loss, clipping and optimiser."""
    ours, bare = (Setting(tmp_path, *TINY, "freezing=frozen") for _ in range(2))
    before = {name: p.detach().clone() for name, p in ours.module.named_parameters()}
    assert trained(ours) > 0
    assert loop(bare) > 0
    moved = dict(bare.module.named_parameters())
    for name, parameter in ours.module.named_parameters():
        torch.testing.assert_close(parameter, moved[name], atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(before[name], parameter) for name, parameter in moved.items())
