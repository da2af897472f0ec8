"""Trainings that are killed at a given moment, for a `Forks` to run."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from lungtl.models.freezing.gradual import Gradual
from lungtl.training.checkpoints import Checkpoints
from lungtl.training.module import BagModule
from tests.stores import toy_store
from tests.training.test_fit import Epochs, train

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
FILE_EVENTS = {"open", "os.mkdir", "os.remove", "os.rename"}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def trained(data: str, folder: str, epochs: Epochs | None = None, resume: bool = False) -> dict[str, Any]:
    """A run that uses all parts of a checkpoint: dropout, augmentation, unfreezing, averaged weights."""
    store = toy_store(Path(data), LENGTHS)
    options: dict[str, Any] = {"max_epochs": 2, "patience": 5, "ema": 0.9}
    _, result = train(store, Path(folder), Gradual(every=1, most=1), epochs, resume, augment=True, **options)
    return result


def killed_at_file_operation(data: str, folder: str, number: int) -> None:
    """Before the given operation on the run's files, counted from 0."""
    done = 0

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        nonlocal done
        if event in FILE_EVENTS and str(arguments[0]).startswith(folder):
            if done == number:
                die()
            done += 1

    sys.addaudithook(hook)
    trained(data, folder)


def killed_at_step(data: str, folder: str, number: int) -> None:
    """Before the given training step, counted from 0."""
    kill_at_call(BagModule, "training_step", number)
    trained(data, folder)


def killed_in_a_file(data: str, folder: str, epoch: int, size: int) -> None:
    """When the epoch's checkpoint has so many bytes."""

    class Limits(Epochs):
        def __call__(self, metrics: dict[str, float], now: int) -> None:
            if now == epoch:
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python makes an error of it otherwise
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    trained(data, folder, Limits())


def counted(data: str, folder: str) -> None:
    """Not killed: leaves in the folder how many Python functions were called."""
    (Path(folder) / "calls").write_text(str(_calls(data, folder, -1)))


def killed_after_calls(data: str, folder: str, number: int) -> None:
    """When so many Python functions have been called."""
    _calls(data, folder, number)


def _calls(data: str, folder: str, last: int) -> int:
    done = 0

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal done
        if event == "call":
            if done == last:
                die()
            done += 1

    sys.setprofile(count)
    trained(data, folder)
    sys.setprofile(None)
    return done


def kill_at_call(owner: Any, name: str, number: int = 0) -> None:
    """Let the given call of a function, counted from 0, kill the process."""
    function: Callable[..., Any] = getattr(owner, name)
    called = 0

    def counting(*args: Any, **kwargs: Any) -> Any:
        nonlocal called
        if called == number:
            die()
        called += 1
        return function(*args, **kwargs)

    setattr(owner, name, counting)


def command(root: str, arguments: list[str], owner: str = "", name: str = "", number: int = 0) -> None:
    """`python -m lungtl.train ARGUMENTS` in a folder; killed at a call, see `kill_at_call`, where one is named."""
    from lungtl import train
    from lungtl.runs import scoring
    from lungtl.runs.resuming import resumed_command_line
    from lungtl.settings import command_line
    from lungtl.settings.schema import TrainConfig
    from lungtl.sweeps import jobs
    from lungtl.tracking.tracker import MlflowTracker

    owners = {"BagModule": BagModule, "Checkpoints": Checkpoints, "MlflowTracker": MlflowTracker,
              "scoring": scoring}  # fmt: skip
    if owner:
        kill_at_call(owners[owner], name, number)
    os.chdir(root)
    sys.argv[1:] = arguments
    command_line.main("train", TrainConfig, train.run, expand=resumed_command_line, jobs=jobs)
