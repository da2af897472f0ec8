"""Which epoch is the best, and what a failed or killed write leaves; see `test_killed` for whole runs."""

from __future__ import annotations

import errno
import math
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch

from lungtl.settings.errors import LungtlError
from lungtl.training.checkpoints import AtomicCheckpointIO, Checkpoints, _Writer, check_checkpoint, check_intact


class FakeTrainer(SimpleNamespace):
    """Saves what the callback says and the epoch."""

    def __init__(self, callback: Checkpoints) -> None:
        super().__init__(is_global_zero=True, strategy=SimpleNamespace(barrier=lambda name: None))
        self.callback = callback
        self.current_epoch = -1

    def save_checkpoint(self, path: Path) -> None:
        checkpoint = {"epoch": self.current_epoch}
        self.callback.on_save_checkpoint(self, None, checkpoint)  # type: ignore[arg-type]
        AtomicCheckpointIO().save_checkpoint(checkpoint, path)

    def end_epoch(self, value: float) -> None:
        self.current_epoch += 1
        self.callback_metrics = {"val/x": torch.tensor(value)}
        self.callback.on_train_epoch_end(self, None)  # type: ignore[arg-type]


def made(folder: Path, mode: Literal["min", "max"]) -> tuple[Checkpoints, FakeTrainer]:
    callback = Checkpoints(folder, "val/x", mode)
    trainer: Any = FakeTrainer(callback)
    callback.setup(trainer, None, "fit")  # type: ignore[arg-type]
    return callback, trainer


def epoch_in(path: Path) -> int:
    return int(torch.load(path, weights_only=True)["epoch"])


@pytest.mark.parametrize(("mode", "sign"), [("min", 1), ("max", -1)])
def test_ties_go_to_the_first_epoch(tmp_path: Path, mode: Literal["min", "max"], sign: int) -> None:
    callback, trainer = made(tmp_path, mode)
    best = []
    for value in (math.nan, math.inf, 0.5, 0.75, 0.5, 0.25, -math.inf, math.nan):
        trainer.end_epoch(sign * value)
        assert epoch_in(tmp_path / "last.ckpt") == trainer.current_epoch
        best.append(callback.best_epoch)
        if callback.best_epoch is not None:
            assert epoch_in(tmp_path / "best.ckpt") == callback.best_epoch
    assert best == [None, None, 2, 2, 2, 5, 5, 5]
    assert callback.best_value == sign * 0.25


def test_the_best_epoch_is_recovered_from_the_last(tmp_path: Path) -> None:
    _, trainer = made(tmp_path, "min")
    trainer.end_epoch(0.5)
    trainer.end_epoch(0.25)
    (tmp_path / "best.ckpt").unlink()  # as if the kill had come before the copy
    (tmp_path / "best.ckpt.123.tmp").write_bytes(b"half")

    callback, trainer = made(tmp_path, "min")
    assert {path.name for path in tmp_path.iterdir()} == {"last.ckpt"}
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    callback.on_load_checkpoint(trainer, None, last)  # type: ignore[arg-type]
    assert epoch_in(tmp_path / "best.ckpt") == callback.best_epoch == 1
    trainer.current_epoch = 1
    trainer.end_epoch(0.375)
    assert callback.best_value == 0.25
    assert epoch_in(tmp_path / "best.ckpt") == 1


def test_the_last_checkpoint_does_not_replace_a_better_one(tmp_path: Path) -> None:
    _, trainer = made(tmp_path, "min")
    trainer.end_epoch(0.25)
    trainer.end_epoch(0.5)
    callback, trainer = made(tmp_path, "min")
    callback.on_load_checkpoint(trainer, None, torch.load(tmp_path / "last.ckpt", weights_only=True))  # type: ignore[arg-type]
    assert epoch_in(tmp_path / "best.ckpt") == callback.best_epoch == 0


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises(AttributeError):
        AtomicCheckpointIO().save_checkpoint({"epoch": 2, "weights": torch.zeros(1000), "bad": lambda: None}, path)
    assert epoch_in(path) == 1


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("touch evil_was_here",)


WHOLE: dict[str, Any] = {"state_dict": {}, "loops": {}, "best": {}, "freezing": {}, "random_state": [], "seconds": 0.0}
LACKING = [{key: value for key, value in WHOLE.items() if key != missing} for missing in WHOLE]


def write(folder: Path, content: Any) -> None:
    path = folder / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)


@pytest.mark.parametrize("content", [b"not a checkpoint", b"", *LACKING, [1, 2], Evil()])
def test_a_file_that_is_no_checkpoint_is_refused(tmp_path: Path, content: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, content)
    with pytest.raises(LungtlError, match=r"last\.ckpt is not a checkpoint.*start a new run") as error:
        check_checkpoint(tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "evil_was_here").exists()


def test_a_checkpoint_is_found_where_there_is_one(tmp_path: Path) -> None:
    assert not check_checkpoint(tmp_path)
    write(tmp_path, WHOLE | {"state_dict": {"weight": torch.zeros(10)}})
    assert check_checkpoint(tmp_path)


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoints" / "last.ckpt"
    path.parent.mkdir()
    weights = torch.arange(1000.0)
    AtomicCheckpointIO().save_checkpoint({"state_dict": {"w": weights}}, path)
    check_intact(path)
    content = bytearray(path.read_bytes())
    content[content.index(weights[500:504].numpy().tobytes()) + 1] ^= 2
    path.write_bytes(content)
    assert not torch.equal(torch.load(path, weights_only=True)["state_dict"]["w"], weights)  # torch does not notice
    with pytest.raises(LungtlError, match=r"last.ckpt was altered \("):
        AtomicCheckpointIO().load_checkpoint(path)
    with pytest.raises(LungtlError, match=r"last.ckpt was altered \("):
        check_checkpoint(tmp_path)


def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch's own error is about a position in the file."""

    def full(self: _Writer, content: bytes) -> int:
        self.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise self.error

    monkeypatch.setattr(_Writer, "write", full)
    with pytest.raises(LungtlError, match=r"cannot write .*last.ckpt \(No space left on device\); free some space"):
        AtomicCheckpointIO().save_checkpoint({"epoch": 1, "weights": torch.zeros(1000)}, tmp_path / "last.ckpt")
