"""A sweep that is killed with all of its processes, for a `Forks` to run."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

from lungtl import train
from lungtl.runs.resuming import resumed_command_line
from lungtl.settings import command_line
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps import jobs


def command(root: str, arguments: list[str], parent: str = "", seconds: float = 0) -> None:
    """`python -m lungtl.train -m ARGUMENTS` in a folder.

    Args:
        root: the folder.
        arguments: of the command.
        parent: the sweep's parent.json; so long after it is written the whole process group is killed.
        seconds: how long.
    """
    os.chdir(root)
    os.setsid()
    written = _written(Path(parent))
    if parent and os.fork() == 0:
        while _written(Path(parent)) == written:
            time.sleep(0.01)
        time.sleep(seconds)
        os.killpg(0, signal.SIGKILL)
    sys.argv[1:] = ["-m", *arguments]
    command_line.main("train", TrainConfig, train.run, expand=resumed_command_line, jobs=jobs)


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.is_file() else 0
