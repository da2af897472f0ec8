from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.setting import Setting
from benchmarks.step import bare_lightning, bare_loop, trained

TINY = (
    "image.size=32", "dataset.scans=12", "dataset.matrix=32", "trainer.batch_size=2", "trainer.max_epochs=1",
    "head.dropout=0", "schedule.warmup_epochs=0", "backbone.name=test_resnet.r160_in1k", "backbone.weights=none",
    "workers=1",
)  # fmt: skip


@pytest.mark.exhaustive
def test_all_loops_do_the_same_work(tmp_path: Path) -> None:
    """After an epoch the weights are the same: same batches, loss, clipping and optimiser."""
    ours, loop, lightning = (Setting(tmp_path, *TINY, "freezing=frozen") for _ in range(3))
    before = {name: p.detach().clone() for name, p in ours.module.named_parameters()}
    assert trained(ours) > 0
    assert bare_loop(loop) > 0
    assert bare_lightning(lightning) > 0
    for bare in (loop, lightning):
        weights = dict(bare.module.named_parameters())
        for name, parameter in ours.module.named_parameters():
            torch.testing.assert_close(parameter, weights[name], atol=1e-6, rtol=1e-4)
    assert any(not torch.equal(before[name], parameter) for name, parameter in ours.module.named_parameters())
