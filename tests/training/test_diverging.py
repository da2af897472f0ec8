from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.models.freezing.frozen import Frozen
from lungtl.training.module import BagModule
from tests.stores import toy_store
from tests.training.test_fit import Epochs, train


class Diverges(BagModule):
    """In epoch 1."""

    def training_step(self, *args: Any) -> torch.Tensor:
        return super().training_step(*args) * (torch.nan if self.current_epoch == 1 else 1.0)


def test_a_diverged_run_keeps_its_best_epoch_and_is_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store, epochs, resumed = toy_store(tmp_path / "data", (2, 3) * 6), Epochs(), Epochs()
    _, result = train(store, tmp_path, Frozen(), epochs, kind=Diverges, max_epochs=9)
    assert sum("diverged" in m and "optimizer.lr" in m for m in caplog.messages) == 1
    assert list(epochs.seen) == [1, 2]
    assert (result["best_epoch"], result["epochs"]) == (1, 2)
    _, same = train(store, tmp_path, Frozen(), resumed, resume=True, kind=Diverges, max_epochs=9)
    assert (same, resumed.seen) == (result, {})
