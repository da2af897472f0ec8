"""`trainer.precision`: less than float32 where torch takes it to be safe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from lungtl.data.store.reader import Store
from lungtl.models.freezing.full import Full
from lungtl.settings.errors import UsageError
from lungtl.training.module import BagModule
from tests.stores import toy_store
from tests.training.test_fit import Epochs, changed, last_state, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="16-mixed needs a CUDA GPU")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class Types(BagModule):
    """Notes in which type the backbone computes."""

    seen: torch.dtype

    def on_fit_start(self) -> None:
        self.classifier.backbone.register_forward_hook(lambda *call: setattr(Types, "seen", call[2].dtype))


def mixed(store: Store, folder: Path, **options: Any) -> tuple[Epochs, dict[str, torch.Tensor]]:
    epochs = Epochs()
    train(store, folder, Full(), epochs, kind=Types, max_epochs=3, **options)
    state: dict[str, torch.Tensor] = last_state(folder)["state_dict"]
    return epochs, state


def is_close(found: Epochs, plain: Epochs) -> None:
    for epoch, metrics in plain.seen.items():
        for name in ("train/loss", "val/loss"):
            assert math.isfinite(found.seen[epoch][name])
            assert found.seen[epoch][name] == pytest.approx(metrics[name], abs=0.1)
    assert found.seen != plain.seen


def test_bfloat16_trains_similarly_with_float32_weights(store: Store, tmp_path: Path) -> None:
    plain, _ = mixed(store, tmp_path / "plain")
    assert Types.seen is torch.float32
    epochs, state = mixed(store, tmp_path / "mixed", precision="bf16-mixed")
    assert Types.seen is torch.bfloat16
    is_close(epochs, plain)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    again, same = mixed(store, tmp_path / "again", precision="bf16-mixed")
    assert changed(state, same) == set()
    assert again.seen == epochs.seen


def test_the_auroc_of_bfloat16_logits_is_computed_in_float64(store: Store, tmp_path: Path) -> None:
    ranked: list[torch.Tensor] = []

    def auroc(probabilities: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        ranked.append(probabilities)
        return torch.tensor(0.5)

    with mock.patch("lungtl.training.module.binary_auroc", auroc):
        mixed(store, tmp_path, precision="bf16-mixed", accelerator="cpu")
    assert {probabilities.dtype for probabilities in ranked} == {torch.float64}


def test_float16_on_a_cpu_is_refused_before_anything_is_written(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"trainer\.precision=16-mixed requires a GPU.*bf16-mixed or 32-true"):
        mixed(store, tmp_path / "run", precision="16-mixed")
    assert not (tmp_path / "run").exists()


@needs_gpu
@pytest.mark.parametrize("precision", ["16-mixed", "bf16-mixed"])
def test_a_gpu_trains_like_a_cpu(store: Store, tmp_path: Path, precision: str) -> None:
    plain, _ = mixed(store, tmp_path / "plain", accelerator="gpu")
    epochs, state = mixed(store, tmp_path / "mixed", accelerator="gpu", precision=precision, ema=0.9)
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert plain.seen.keys() == epochs.seen.keys()
    assert all(math.isfinite(metrics["train/loss"]) for metrics in epochs.seen.values())
