"""The text of `model=A,B`. Without torch: it is read before the first line of output."""

from __future__ import annotations

import re
from pathlib import Path

WRITTEN = re.compile(r"'[^']*'|\"[^\"]*\"|[\[{].*")
"""A value that is one text or list in Hydra's grammar already."""


def split_references(text: str) -> list[str]:
    """The models of `model=A,B`; a path that exists may contain commas."""
    if Path(text).expanduser().exists():
        return [text]
    return [part for each in text.split(",") if (part := each.strip())]


def quote_models(arguments: list[str]) -> list[str]:
    """A command line in which `model=A,B` is one text instead of two values of a sweep."""
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "model" and "," in value and not WRITTEN.fullmatch(value):
            argument = "model='{}'".format(value.replace("'", ""))
        quoted.append(argument)
    return quoted
