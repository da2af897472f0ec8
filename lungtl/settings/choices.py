"""The parts that a config was composed from."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import yaml

from lungtl.settings.folders import conf_dir
from lungtl.settings.parts import TARGET


def actual_choices(choices: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Config group -> option, or the part that the config has in its place.

    With `backbone.name=resnet50`, on the command line or in an experiment, the backbone is resnet50, and with
    `aggregator._target_=mylab.agg.Mine` the aggregator is Mine, whichever of lungtl's options was chosen. An option of
    the user's own keeps its name.

    Args:
        choices: config group -> option.
        config: group -> its section, as composed.
    """
    return {group: _part_in_place(group, str(option), config.get(group)) for group, option in choices.items()}


def _part_in_place(group: str, option: str, section: Any) -> str:
    own = _read_option(group, option)
    if not isinstance(section, Mapping) or TARGET not in own:
        return option
    if group == "backbone" and section.get("name") != own["name"]:
        return str(section["name"])
    return option if section[TARGET] == own[TARGET] else str(section[TARGET]).rpartition(".")[2]


@cache
def _read_option(group: str, option: str) -> dict[str, Any]:
    """An option's file in conf/; empty if it has none."""
    path = conf_dir() / group / f"{option}.yaml"
    return dict(yaml.safe_load(path.read_bytes()) or {}) if path.is_file() else {}
