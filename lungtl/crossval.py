"""`python -m lungtl.crossval`: train and test every fold of an experiment, then pool their test predictions.

The folds are the sweep `python -m lungtl.train -m split.kind=kfold split.fold=0,1,...`, with all other overrides passed
on. Its config, conf/crossval.yaml, is that of train with `split.fold` swept.
"""

from __future__ import annotations

import logging
import os
import runpy
import secrets
import sys
from datetime import datetime

from lungtl.runs.folder import sweep_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import meaning, override_key
from lungtl.settings.typed import remember_command

KFOLD = "split.kind=kfold"


def main() -> None:
    """Run the sweep, pool the repeats whose folds finished, and print the folder of the pooled results."""
    arguments = sys.argv[1:]
    overrides = [argument for argument in arguments if not argument.startswith("-")]
    remember_command("crossval", arguments)
    command_line.plain(lambda: check_overrides(overrides))
    os.environ.setdefault(command_line.STAMP, f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    code = train_folds(arguments)
    if code in (0, 1) and not command_line.INFORMATION_FLAGS & set(arguments):  # 1: some runs failed
        sweep = sweep_dir_of(overrides, os.environ[command_line.STAMP])

        from lungtl.sweeps.folds.pooled import pool_sweep
        from lungtl.sweeps.folds.runs import find_runs

        logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
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
    """Run the sweep as the train command would, and return its exit code."""
    sys.argv[1:] = ["--config-name=crossval", "-m", KFOLD, *arguments]
    try:
        runpy.run_module("lungtl.train", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    main()
