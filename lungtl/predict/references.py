"""The text of `model=A,B`. Without torch: it is read before the first line of output."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lungtl.settings.sections import TrackingConfig

REGISTERED = "models:/"
WRITTEN = re.compile(r"'[^']*'|\"[^\"]*\"|[\[{].*")
"""A value that is one text or list in Hydra's grammar already."""


def split_references(text: str) -> list[str]:
    """The models of `model=A,B`; a path that exists may contain commas."""
    if Path(text).expanduser().exists():
        return [text]
    return [part for each in text.split(",") if (part := each.strip())]


def fetch(references: list[str], tracking: TrackingConfig, data_dir: Path) -> list[str]:
    """The references, those to MLflow's registry replaced by the folders to which their bundles are downloaded."""
    if not any(one.startswith(REGISTERED) for one in references):
        return references
    from lungtl.tracking.backend import open_client
    from lungtl.tracking.registry import fetch_registered

    client = open_client(tracking.uri, data_dir)
    return [
        str(fetch_registered(client, one, data_dir / "registered")) if one.startswith(REGISTERED) else one
        for one in references
    ]


def quote_models(arguments: list[str]) -> list[str]:
    """A command line in which `model=A,B` is one text instead of two values of a sweep."""
    quoted = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "model" and "," in value and not WRITTEN.fullmatch(value):
            argument = "model='{}'".format(value.replace("'", ""))
        quoted.append(argument)
    return quoted
