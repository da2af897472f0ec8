"""Compose a config from lungtl's and the user's files and the overrides of a command line.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lungtl.settings.checks import check, hydra_on_conf, swept_values
from lungtl.settings.folders import search_path, user_folders
from lungtl.settings.keys import override_key
from lungtl.settings.parts import TARGET, signature
from lungtl.settings.text import quote_text

if TYPE_CHECKING:
    from lungtl.settings.sections import Strict

C = TypeVar("C", bound="Strict")


def unused_options(config_name: str, overrides: list[str], folders: Sequence[Path] = ()) -> list[str]:
    """Overrides that delete what `GROUP._target_=CLASS` leaves behind: options of the class that it replaces.

    Args:
        config_name: the primary config.
        overrides: of the command line; options that these set are the user's and stay.
        folders: of `user_folders`.

    Raises:
        UsageError: there is no such class.
    """
    targets = [line for line in overrides if override_key(line).endswith(f".{TARGET}")]
    if not targets:
        return []
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    given = {override_key(line) for line in overrides}
    try:
        parsed = OverridesParser.create().parse_overrides(targets)
        single = [line for line in overrides if line not in targets and not _is_sweep(line)]
    except HydraException:  # `check` reports it
        return []
    composed = _compose(config_name, single, folders)
    deletions = []
    for override in parsed:
        group = override.key_or_group.removesuffix(f".{TARGET}")
        section = composed.get(group)
        if section is None:  # no such part; `check` reports it
            continue
        classes = swept_values(override) if override.is_sweep_override() else [str(override.value())]
        read = [signature(name, group) for name in classes]
        replaced = [key for key in section if key != TARGET and not all(key in options for options in read)]
        deletions += [f"~{group}.{key}" for key in replaced if f"{group}.{key}" not in given]
    return deletions


def part_targets(config_name: str, overrides: Sequence[str], folders: Sequence[Path] = ()) -> dict[str, str]:
    """Part -> the class that a command line gives it; empty if the command line cannot be composed."""
    lines = [line for line in overrides if "." not in override_key(line) or override_key(line).endswith(f".{TARGET}")]
    composed = _compose(config_name, [line for line in lines if "=" in line and "," not in line], folders)
    return {str(key): str(part[TARGET]) for key, part in composed.items() if isinstance(part, dict) and TARGET in part}


def _compose(config_name: str, lines: list[str], folders: Sequence[Path]) -> dict[str, Any]:
    """A composed config, its interpolations as written; empty if Hydra refuses it, which `check` reports."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    with hydra_on_conf():
        try:
            content: Any = OmegaConf.to_container(compose(config_name, [*lines, search_path(folders)]))
        except (HydraException, ValueError):
            return {}
    return dict(content)


def _is_sweep(line: str) -> bool:
    if not {",", "("} & set(line):  # parsing is slow
        return False
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_override(line).is_sweep_override()


def compose_config(config_name: str, schema: type[C], overrides: list[str], folders: Sequence[Path] = ()) -> C:
    """Compose and check a config outside a command.

    Args:
        config_name: the primary config.
        schema: its typed form.
        overrides: as on a command line, without flags.
        folders: with config groups of your own, besides `user_folders`.

    Raises:
        UsageError: the first wrong key or value.
    """
    from lungtl.settings.schema import TrainConfig

    folders = [*folders, *user_folders([])]
    overrides = quote_text(overrides, schema, lambda: part_targets(config_name, overrides, folders))
    overrides = [*overrides, *unused_options(config_name, overrides, folders)]
    config, choices = check(config_name, schema, overrides, multirun=False, folders=folders)
    if isinstance(config, TrainConfig):
        config.composed_from(choices, overrides)
    return config
