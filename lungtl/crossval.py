"""`python -m lungtl.crossval`: train and test every fold of an experiment, then pool their test predictions.

The folds are the sweep `python -m lungtl.train -m split.kind=kfold split.fold=0,1,...`, with all other overrides passed
on. Its config, conf/crossval.yaml, is that of train with `split.fold` swept; at its end the folds are pooled.
"""

from __future__ import annotations

import runpy
import sys

from lungtl.settings import command_line
from lungtl.settings.errors import UsageError
from lungtl.settings.keys import meaning, override_key
from lungtl.settings.typed import remember_command

KFOLD = "split.kind=kfold"


def main() -> None:
    """Run the sweep as the train command does."""
    arguments = sys.argv[1:]
    remember_command("crossval", arguments)
    command_line.plain(lambda: check_overrides(command_line.overrides_of(arguments)))
    sys.argv[1:] = ["--config-name=crossval", "-m", KFOLD, *arguments]
    runpy.run_module("lungtl.train", run_name="__main__", alter_sys=True)


def check_overrides(overrides: list[str]) -> None:
    """Raise UsageError for an override of what makes the sweep a cross-validation."""
    for override in overrides:
        key, value = override_key(override), override.partition("=")[2]
        if meaning(key).set_by_crossval:
            raise UsageError(f"{override}: crossval sets {key} itself; omit it")
        if key == "split.folds" and not value.isdecimal():
            raise UsageError(f"{override}: give one number of folds; run crossval once for each number")


if __name__ == "__main__":
    main()
