"""`lungtl COMMAND --help`: its purpose, what can be chosen, and its settings with the comments of their YAML files."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from itertools import dropwhile
from pathlib import Path
from typing import Any

from lungtl.settings.folders import conf_dir, option_files

WIDTH = 80
HIDDEN = ("defaults:", "hydra:", "_target_:")
"""Beginnings of the top-level blocks of a file that are no settings."""
SWEEPS = ("hydra/launcher", "hydra/sweeper", "hydra/sweeper/params")
"""Groups of commands that can be swept."""
LAUNCHERS = ("basic", "joblib")
"""Of Hydra and its plugins, in addition to conf/hydra/launcher."""


def help_text(config_name: str, overrides: Sequence[str] = (), folders: Sequence[Path] = ()) -> str:
    """The help of a command.

    Args:
        config_name: its primary config in conf/.
        overrides: of the command line: with `aggregator=gru`, the settings of that aggregator are shown.
        folders: with the user's own configs.
    """
    given = dict(override.partition("=")[::2] for override in overrides)
    options = {group: given.get(group, option) for group, option in _defaults(config_name).items()}
    sweeps = "trainer" in options
    groups = [*options, *(SWEEPS if sweeps else ())]
    lines = [_header(config_name), ""]
    if groups:
        lines.append("Choices (group=option):")
        for group in groups:
            launchers = LAUNCHERS if group == "hydra/launcher" else ()
            if names := sorted({*option_files(group, folders), *launchers}):
                lines += textwrap.wrap(f"  {group}: {', '.join(names)}", WIDTH, subsequent_indent="    ")
        lines.append("")
    lines.append("Settings (key=value):")
    for name in ("common", *_bases(config_name)):  # without the comment about the file itself
        lines += dropwhile(lambda line: line.startswith("#"), _block(conf_dir() / f"{name}.yaml"))
    for group, option in options.items():
        if (path := option_files(group, folders).get(str(option))) is not None:
            lines += ["", f"{group} ({option}):", *(f"  {line}" for line in _block(path))]
    return "\n".join([*lines, "", "Research software, not a medical device."])


def _defaults(config_name: str) -> dict[str, str | None]:
    """Group -> default option of a command's defaults list, those of its bases included."""
    found: dict[str, str | None] = {}
    for name in _bases(config_name):
        for entry in _load(name).get("defaults", []):
            if isinstance(entry, dict):
                ((group, option),) = entry.items()
                if not group.startswith("override "):
                    found[group] = option
    return found


def _bases(config_name: str) -> list[str]:
    """The command's config and those that it extends, the most general first."""
    entries = _load(config_name).get("defaults", [])
    bases = [entry for entry in entries if isinstance(entry, str) and entry not in ("common", "_self_")]
    return [*(base for entry in bases for base in _bases(entry)), config_name]


def _load(name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    content: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / f"{name}.yaml"))
    return dict(content)


def _header(config_name: str) -> str:
    return str(_load(config_name)["hydra"]["help"]["header"])


def _block(path: Path) -> Iterator[str]:
    """The lines of a config file without what is no setting, and without the blank lines at its ends."""
    kept, hidden = [], False
    for line in path.read_text(encoding="utf-8").splitlines():
        if line and not line[0].isspace():
            hidden = line.startswith(HIDDEN)
        if not hidden and not line.startswith("# @package"):
            kept.append(line)
    yield from "\n".join(kept).strip("\n").splitlines()
