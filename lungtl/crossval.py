"""`python -m lungtl.crossval`: train and test every fold of an experiment, then pool their test predictions.

The folds are the sweep `python -m lungtl.train -m split.kind=kfold split.fold=0,1,...`, with all other overrides passed
on. Its config, conf/crossval.yaml, is that of train with `split.fold` swept.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import subprocess
import sys
from datetime import datetime
from types import FrameType

from lungtl.runs.folder import sweep_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import meaning, override_key
from lungtl.settings.parent_process import PARENT
from lungtl.settings.typed import remember_command

KFOLD = "split.kind=kfold"


def main() -> None:
    """Run the sweep, pool the repeats whose folds finished, and print the folder of the pooled results."""
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    overrides = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    remember_command("crossval", sys.argv[1:])
    command_line.plain(lambda: check_overrides(overrides))
    os.environ.setdefault(command_line.STAMP, f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    code = train_folds(sys.argv[1:])
    if code in (0, 1) and not command_line.INFORMATION_FLAGS & set(sys.argv):  # 1: some runs failed
        sweep = sweep_dir_of(overrides, os.environ[command_line.STAMP])

        from lungtl.sweeps.folds.pooled import pool_sweep
        from lungtl.sweeps.folds.runs import find_runs

        runs = find_runs(sweep) if sweep.is_dir() else []
        if runs:
            command_line.plain(lambda: pool_sweep(sweep, runs))
        elif "dry_run=true" not in overrides:
            command_line.fail(
                LungtlError(f"nothing to pool in {sweep}; give sweep.name= and data_dir= to crossval itself")
            )
    sys.exit(code)


def check_overrides(overrides: list[str]) -> None:
    """Raise UsageError for an override of what makes the sweep a cross-validation."""
    for override in overrides:
        key, value = override_key(override), override.partition("=")[2]
        if meaning(key).set_by_crossval:
            raise UsageError(f"{override}: crossval sets {key} itself; omit it")
        if key == "split.folds" and not value.isdecimal():
            raise UsageError(f"{override}: give one number of folds; run crossval once for each number")


def train_folds(arguments: list[str]) -> int:
    """Run the sweep in a process of its own; returns its exit code.

    Ctrl-C and the other signals that end a command reach all processes of the sweep once.
    """
    command = [sys.executable, "-m", "lungtl.train", "--config-name=crossval", "-m", KFOLD, *arguments]
    process: subprocess.Popen[bytes] | None = None
    early: list[int] = []  # signals before the process had started

    def forward(number: int, frame: FrameType | None) -> None:
        if process is None:
            early.append(number)
        else:
            os.killpg(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP
            signal.signal(number, forward)
    process = subprocess.Popen(command, process_group=0, env={**os.environ, PARENT: str(os.getpid())})
    for missed in early:
        os.killpg(process.pid, missed)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    main()
