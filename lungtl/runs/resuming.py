"""Resuming and repeating a run from its config.yaml, in which a stranger's run can name settings of lungtl alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lungtl.runs.folder import CONFIG, data_dir_of, find_run, is_inside, read_record, read_yaml
from lungtl.settings import parts
from lungtl.settings.command_line import MULTIRUN, overrides_of
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import flatten, meaning, override_key
from lungtl.settings.schema import TrainConfig
from lungtl.settings.text import DATA_DIR, given_value, quoted

OVERLAYS = ("experiments", "debug")
"""Config groups that set keys of other groups."""
OPTIMISERS = ("torch.optim", "timm.optim")
"""Packages besides lungtl whose optimisers and schedules need no trust."""


def resumed_command_line(arguments: list[str]) -> list[str]:
    """Expand `resume=RUN` to the run's own settings, then the new ones, in the run's folder.

    Raises:
        UsageError: there is no such run, it belongs to another data folder, or what is given cannot be resumed.
    """
    overrides = overrides_of(arguments)
    reference = given_value("resume", overrides)
    if reference in (None, "", "null"):
        return arguments
    data_dir, given = data_dir_of(overrides), {override_key(override) for override in overrides}
    folder = find_run(str(reference), data_dir)
    if MULTIRUN & set(arguments):
        raise UsageError("resume= continues one run; omit -m (rerun a sweep with its sweep.name to resume it)")
    for group in OVERLAYS:
        if group in given:
            raise UsageError(f"{group}= with resume={reference}: a resumed run has its own settings; omit {group}")
    if DATA_DIR not in given and not is_inside(folder, data_dir):
        raise UsageError(f"{folder} is not in data_dir={data_dir}; add data_dir= of that run to the command")
    if "overrides" not in read_record(folder):
        raise UsageError(f"{folder} was trained by an earlier version of lungtl; train it again")
    # without .hydra/, which describes how the run was started
    place = [f"hydra.run.dir={quoted(str(folder))}", "hydra.output_subdir=null"]
    return [*own_settings(folder, given), *arguments, *place]


def own_settings(folder: Path, given: Collection[str] = ()) -> list[str]:
    """The settings with which a run was started, as overrides, without those that say where it was started.

    Args:
        folder: of the run, possibly a stranger's.
        given: keys of the command line; a group that is given is the user's choice.

    Raises:
        LungtlError: config.yaml names something other than plain settings of lungtl.
    """
    path = folder / CONFIG
    settings = read_yaml(path)
    lines = []
    for group, section in settings.items():
        if group not in TrainConfig.model_fields:
            raise LungtlError(f"{path}: {group} is not a setting of lungtl; restore the file or train again")
        if group in given:
            continue
        if isinstance(section, dict) and parts.TARGET in section:
            lines.append(f"~{group}")  # its default would leave its options behind
        for key, value in flatten({group: section}).items():
            if not re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", key) or "${" in str(value):
                raise LungtlError(f"{path}: {key}={value}: expected a plain setting; restore the file or train again")
            if meaning(key).reproduced:
                lines.append(f"++{key}={_as_value(_moved(value, settings.get(DATA_DIR)))}")
    return lines


def _moved(value: Any, data_dir: Any) -> Any:
    """A path in the run's data folder as one in the current data folder; any other value as it is."""
    if not isinstance(value, str) or data_dir is None or not Path(value).is_relative_to(str(data_dir)):
        return value
    return f"${{{DATA_DIR}}}/{Path(value).relative_to(str(data_dir)).as_posix()}"


def own_overrides(folder: Path, config: TrainConfig) -> list[str]:
    """What was set on the command line of a resumed or repeated run, with later changes; only described, never run."""
    then, now = flatten(read_yaml(folder / CONFIG)), flatten(config.model_dump(mode="json"))
    changed = {key: value for key, value in now.items() if meaning(key).reproduced and then.get(key, value) != value}
    known = {*TrainConfig.model_fields, *OVERLAYS}
    lines = [str(line) for line in read_record(folder)["overrides"]]
    kept = [line for line in lines if override_key(line) not in changed and override_key(line).split(".")[0] in known]
    texts = {key: value if isinstance(value, str) else _as_value(value) for key, value in changed.items()}
    return [*kept, *(f"{key}={text}" for key, text in texts.items())]


def check_settings(folder: Path, config: Mapping[str, Any]) -> None:
    """Compare a resumed run's settings with those that it started with.

    Args:
        folder: of the run.
        config: as resolved now, plain.

    Raises:
        UsageError: a setting has changed that decides the result.
    """
    then, now = flatten(read_yaml(folder / CONFIG)), flatten(config)
    for key in sorted(then.keys() | now.keys()):
        was, given = then.get(key, "not set"), now.get(key, "not set")
        if was != given and not meaning(key).may_change:
            raise UsageError(f"cannot resume: {key} was {was}, now it is {given}; omit it or start a new run")


def check_trusted(config: TrainConfig, trust: Collection[str] | None) -> None:
    """Raise LungtlError for a part whose class is not lungtl's, of a trusted package, or of the kind of that part."""
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler

    from lungtl.models.aggregators.base import Aggregator
    from lungtl.models.backbones.base import Backbone
    from lungtl.models.freezing.base import FreezingStrategy
    from lungtl.sources.base import Source
    from lungtl.training.losses import BagAndSliceLoss

    bases: dict[str, type] = {
        "dataset": Source, "backbone": Backbone, "freezing": FreezingStrategy, "aggregator": Aggregator,
        "loss": BagAndSliceLoss, "optimizer": Optimizer, "schedule": LRScheduler,
    }  # fmt: skip
    for group, base in bases.items():
        packages = [*(trust or ()), *(OPTIMISERS if group in ("optimizer", "schedule") else ())]
        parts.trusted_class(getattr(config, group), base, packages)


def _as_value(value: Any) -> str:
    """A plain value in Hydra's grammar."""
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(_as_value, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{key}:{_as_value(one)}' for key, one in value.items())}}}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
