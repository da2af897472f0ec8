"""Commands as the user can type them: printed next steps and remedies work verbatim where the running command did."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from lungtl.settings.credentials import hide_password

TYPED = "LUNGTL_TYPED"
"""Environment variable: program, command and arguments that the user typed, as JSON; further processes inherit it."""


def remember_command(command: str, arguments: Sequence[str]) -> None:
    """Record what the user typed; a process that another command started keeps that command's."""
    os.environ.setdefault(TYPED, json.dumps([_program(sys.orig_argv), command, *arguments]))


def typed(command: str, *arguments: str) -> str:
    """A command to type next: `lungtl train resume=...`, or `python -m lungtl.train resume=...`; without passwords."""
    program = json.loads(os.environ[TYPED])[0] if TYPED in os.environ else _program(sys.orig_argv)
    return " ".join([f"{program}{command}", *(shlex.quote(hide_password(argument)) for argument in arguments)])


def typed_again(*overrides: str) -> str:
    """The command that the user typed, with further overrides in place of earlier ones of the same keys."""
    if TYPED not in os.environ:
        return "the same command " + shlex.join(overrides)
    _, command, *arguments = json.loads(os.environ[TYPED])
    keys = {override.partition("=")[0] for override in overrides}
    kept = [argument for argument in arguments if argument.partition("=")[0] not in keys]
    return typed(command, *kept, *overrides)


def assigned(key: str, value: object) -> str:
    """An override, its value quoted for Hydra where its grammar requires that: `data_dir=/tmp/x`."""
    text = str(value)
    if not re.fullmatch(r"[\w./:+%@-]+", text):
        text = "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
    return f"{key}={text}"


def _program(words: Sequence[str]) -> str:
    """What precedes a command's name, from the words that started this process."""
    if len(words) > 1 and Path(words[1]).stem == "lungtl":
        on_path = shutil.which("lungtl")
        same = on_path is not None and Path(on_path).resolve() == Path(words[1]).resolve()
        return "lungtl " if same else f"{shlex.quote(words[1])} "
    ours = any(flag == "-m" and module.partition(".")[0] == "lungtl" for flag, module in pairwise(words))
    return f"{shlex.quote(words[0] if ours else sys.executable)} -m lungtl."
