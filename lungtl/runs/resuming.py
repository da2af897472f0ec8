"""Resuming a run: its own command line once more, with what may change changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lungtl.runs.folder import CONFIG, data_dir_of, find_run, read_record
from lungtl.runs.naming import flatten
from lungtl.settings.command_line import MULTIRUN, overrides_of
from lungtl.settings.composing import recorded_folders
from lungtl.settings.errors import UsageError
from lungtl.settings.keys import may_change_on_resume, override_key


def resumed_command_line(arguments: list[str]) -> list[str]:
    """Expand `resume=RUN` to the run's own overrides, then the new ones, in the run's folder.

    Raises:
        UsageError: there is no such run, or `-m` was given too.
    """
    overrides = overrides_of(arguments)
    folder = _resumed_run(overrides)
    if folder is None:
        return arguments
    if MULTIRUN & set(arguments):
        raise UsageError("resume= continues one run; omit -m (rerun a sweep with its sweep.name to resume it)")
    new = {override_key(override) for override in overrides}
    own = [line for line in own_overrides(folder) if override_key(line) not in new]
    return [*own, *config_dirs(folder), *arguments, f"hydra.run.dir={quoted(str(folder))}"]


def own_overrides(folder: Path) -> list[str]:
    """The overrides that a run was started with."""
    record = read_record(folder)
    if "overrides" not in record:
        raise UsageError(f"{folder} was trained by an earlier version of lungtl; train it again")
    return [str(override) for override in record["overrides"]]


def quoted(text: str) -> str:
    """A text as a value of Hydra's command line."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def config_dirs(folder: Path) -> list[str]:
    """The flags that let Hydra find the user's own configs of an earlier run again."""
    return [f"--config-dir={place}" for place in recorded_folders(folder)]


def check_settings(folder: Path, config: dict[str, Any]) -> None:
    """Compare a resumed run's settings with those that it started with.

    Args:
        folder: of the run.
        config: as resolved now, plain.

    Raises:
        UsageError: a setting has changed that decides the result.
    """
    from omegaconf import OmegaConf

    earlier: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    then, now = flatten(earlier), flatten(config)
    for key in sorted(then.keys() | now.keys()):
        was, given = then.get(key, "not set"), now.get(key, "not set")
        if was != given and not may_change_on_resume(key):
            raise UsageError(f"cannot resume: {key} was {was}, now it is {given}; omit it or start a new run")


def _resumed_run(overrides: list[str]) -> Path | None:
    """The folder of the run that `resume=RUN` names."""
    named = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith("resume=")]
    if not named or named[0] in ("", "null"):
        return None
    return find_run(named[0], data_dir_of(overrides))
