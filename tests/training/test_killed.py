"""A training process that is killed goes on to the end that it would have had."""

from __future__ import annotations

import itertools
import random
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from lungtl.training.checkpoints import check_checkpoint
from tests.forked import Forks
from tests.training import killing
from tests.training.test_fit import Epochs, changed

pytestmark = pytest.mark.slow
FILES = ("last.ckpt", "best.ckpt")


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody killed, and the store's folder."""

    data: str
    result: dict[str, Any]
    epochs: dict[int, dict[str, float]]
    checkpoints: Path


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    folder = tmp_path_factory.mktemp("whole")
    data, epochs = str(folder / "data"), Epochs()
    result = killing.trained(data, str(folder / "run"), epochs)
    return Undisturbed(data, result, epochs.seen, folder / "run" / "checkpoints")


def load(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, weights_only=True)
    return state


def goes_on(whole: Undisturbed, folder: Path) -> None:
    """Resume the run in a folder, and hold its end against the undisturbed one's."""
    epochs = Epochs()
    result = killing.trained(whole.data, str(folder), epochs, resume=True)
    assert result == whole.result
    assert epochs.seen == {epoch: metrics for epoch, metrics in whole.epochs.items() if epoch in epochs.seen}
    assert {path.name for path in (folder / "checkpoints").iterdir()} == set(FILES)
    for name in FILES:
        expected, found = load(whole.checkpoints / name), load(folder / "checkpoints" / name)
        for part in ("state_dict", "current_model_state", "averaging_state"):
            assert changed(expected[part], found[part]) == set()
        for part in ("epoch", "global_step", "lr_schedulers", "freezing", "best"):
            assert expected[part] == found[part]


def test_killed_at_every_file_operation(whole: Undisturbed, warm: Forks, tmp_path: Path) -> None:
    begun = 0
    for number in itertools.count():
        folder = tmp_path / str(number)
        code = warm.run(killing.killed_at_file_operation, tmp_path / "log", whole.data, str(folder), number)
        assert code in (0, -signal.SIGKILL), (tmp_path / "log").read_text()
        begun += check_checkpoint(folder)
        goes_on(whole, folder)
        if code == 0:
            break
    assert number >= 2 * 2 + 3 + 1  # an epoch's file is opened and named, the best one is copied, the folder is made
    assert 0 < begun < number


@pytest.mark.parametrize("step", [1, 4], ids=["first epoch", "second epoch"])
def test_killed_within_an_epoch(whole: Undisturbed, warm: Forks, tmp_path: Path, step: int) -> None:
    folder = tmp_path / "run"
    code = warm.run(killing.killed_at_step, tmp_path / "log", whole.data, str(folder), step)
    assert code == -signal.SIGKILL
    assert check_checkpoint(folder) == (step > 3)
    goes_on(whole, folder)


@pytest.mark.parametrize("epoch", [1, 2])
def test_killed_while_writing_a_file(whole: Undisturbed, warm: Forks, tmp_path: Path, epoch: int) -> None:
    folder = tmp_path / "run"
    size = (whole.checkpoints / "last.ckpt").stat().st_size // 2
    code = warm.run(killing.killed_in_a_file, tmp_path / "log", whole.data, str(folder), epoch, size)
    assert code == -signal.SIGXFSZ
    (part,) = (folder / "checkpoints").glob("*.tmp")
    assert part.stat().st_size == size
    assert check_checkpoint(folder) == (epoch > 1)
    goes_on(whole, folder)


@pytest.mark.exhaustive
def test_killed_at_random_moments(whole: Undisturbed, warm: Forks, tmp_path: Path) -> None:
    counted = tmp_path / "counted"
    assert warm.run(killing.counted, tmp_path / "log", whole.data, str(counted)) == 0
    calls = int((counted / "calls").read_text())
    moments = random.Random(0)
    for number in range(6):
        folder, moment = tmp_path / str(number), moments.randrange(calls)
        code = warm.run(killing.killed_after_calls, tmp_path / "log", whole.data, str(folder), moment)
        assert code == -signal.SIGKILL
        goes_on(whole, folder)
