from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.data.store.reader import Store
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.gradual import Gradual
from lungtl.settings.errors import LungtlError
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import Epochs, last_state, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
COMPILE = torch.compile


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class Graphs:
    """A compiler that runs each graph as it was traced, and counts them."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.count += 1
        return graph.forward


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    """Stands in for the C++ compiler."""
    torch.compiler.reset()
    graphs = Graphs()
    monkeypatch.setattr(torch, "compile", functools.partial(COMPILE, backend=graphs))
    return graphs


def trains_alike(store: Store, folder: Path, build: Callable[[], FreezingStrategy], **options: Any) -> None:
    plain, compiled = Epochs(), Epochs()
    train(store, folder / "plain", build(), plain, **options)
    module, _ = train(store, folder / "compiled", build(), compiled, compile=True, **options)
    assert plain.seen.keys() == compiled.seen.keys()
    for epoch, metrics in plain.seen.items():
        assert compiled.seen[epoch] == pytest.approx(metrics, abs=1e-4)
    names = [f"classifier.{name}" for name in tiny_classifier().state_dict()]
    assert [key for key in module.state_dict() if not key.startswith("loss.")] == names
    kept = module.state_dict().keys() - module.frozen_state().keys()
    assert last_state(folder / "compiled")["state_dict"].keys() == kept


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.slow
@pytest.mark.exhaustive
def test_compiling_does_not_change_training(store: Store, tmp_path: Path) -> None:
    trains_alike(store, tmp_path, Full, max_epochs=2, limit_batches=1)


@pytest.mark.slow
@pytest.mark.exhaustive
def test_unfreezing_recompiles(store: Store, tmp_path: Path, graphs: Graphs) -> None:
    trains_alike(store, tmp_path, lambda: Gradual(every=1, most=1), max_epochs=2, ema=0.5)
    assert graphs.count >= 2  # without gradients, and with them


@pytest.mark.slow
@pytest.mark.exhaustive
def test_every_unfrozen_block_is_compiled(store: Store, tmp_path: Path, graphs: Graphs) -> None:
    """More often than torch compiles a function by its own limit, which is 8."""
    noted: list[int] = []

    class Noting(Epochs):
        def __call__(self, metrics: dict[str, float], epoch: int) -> None:
            noted.append(graphs.count)

    train(store, tmp_path, Gradual(every=1), Noting(), max_epochs=6, compile=True)
    assert all(before < after for before, after in pairwise(noted))
    assert noted[-1] > 8


def test_training_needs_few_graphs_and_afterwards_none_is_used(store: Store, tmp_path: Path, graphs: Graphs) -> None:
    module, _ = train(store, tmp_path, Full(), max_epochs=1, compile=True)
    count = graphs.count
    assert 2 <= count <= 3  # with gradients, and in validation; not one for each number of slices
    with torch.inference_mode():
        module.classifier.backbone(torch.zeros(5, 3, 32, 32))
    assert graphs.count == count
    assert "forward" not in vars(module.classifier.backbone)


def test_compile_has_no_effect_on_cached_features(
    store: Store, tmp_path: Path, graphs: Graphs, caplog: pytest.LogCaptureFixture
) -> None:
    train(store, tmp_path, Frozen(), cache=tmp_path, max_epochs=1, compile=True)
    assert "trainer.compile has no effect" in caplog.text
    assert graphs.count == 0


def test_a_missing_compiler_is_reported(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        raise RuntimeError("no working C++ compiler")

    torch.compiler.reset()
    monkeypatch.setattr(torch, "compile", functools.partial(COMPILE, backend=fails))
    wanted = r"trainer\.compile=true: torch\.compile failed \(.*no working C\+\+ compiler.*\); .*compile=false$"
    with pytest.raises(LungtlError, match=wanted) as error:
        train(store, tmp_path, Full(), max_epochs=1, compile=True)
    assert "\n" not in str(error.value)
