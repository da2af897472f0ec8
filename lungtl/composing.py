"""A command line as a checked config: what is wrong with it is said in a line, with the nearest right name.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lungtl.errors import UsageError
from lungtl.nearest import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from lungtl.config import Strict

C = TypeVar("C", bound="Strict")


def conf_dir() -> Path:
    """The folder of the configs: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def searchpath() -> str:
    """The override that lets Hydra find `experiments=`."""
    return f"hydra.searchpath=['file://{conf_dir().parent}']"


def check(config_name: str, schema: type[C], overrides: list[str], multirun: bool) -> None:
    """Compose and validate a command line; for a sweep, every value that is swept.

    Args:
        config_name: the primary config.
        schema: its typed form.
        overrides: of the command line.
        multirun: whether the command line has `-m`.

    Raises:
        UsageError: the first thing that is wrong, with the nearest right one.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UsageError(f"{first_line(error)}; overrides are written key=value") from error
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        if not multirun:
            _check_single(config_name, parsed)
        for lines, variant in _variants(parsed):
            try:
                composed = compose(config_name, [*lines, searchpath()])
            except HydraException as error:
                _check_names(config_name, variant)  # to say it better
                raise UsageError(first_line(error)) from error
            validate(schema, composed)


def _check_single(config_name: str, overrides: list[Override]) -> None:
    """Raise UsageError where a key has several values, and the command makes one run."""
    from hydra import compose
    from hydra.types import RunMode

    swept = [override for override in overrides if override.is_sweep_override()]
    own = [str(override.input_line) for override in overrides if override.key_or_group == "hydra.mode"]
    if swept and compose(config_name, [*own, searchpath()], return_hydra_config=True).hydra.mode != RunMode.MULTIRUN:
        line = swept[0].input_line
        raise UsageError(
            f"{line} has several values; add -m to make a run of each, or where a comma is part of one value, quote it "
            f"twice: '{swept[0].get_key_element()}=\"...\"'"
        )


def validate(schema: type[C], composed: DictConfig) -> C:
    """A composed config as its typed form; raises UsageError for the first wrong value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    from lungtl.plugins import describe

    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(f"{missing[0]} is missing; add {missing[0]}=VALUE to the command")
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(first_line(error)) from error
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() and "[" not in str(part))
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown key {key}; {nearest(key, _dotted(plain, without=key))}") from error
        raise UsageError(describe(key, first)) from error


def _variants(parsed: list[Override]) -> Iterator[tuple[list[str], list[Override]]]:
    """Command lines without sweeps: the first value of each, then every further value of one at a time."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices = [
        [f"{o.get_key_element()}={value}" for value in _swept(o)] if o.is_sweep_override() else [str(o.input_line)]
        for o in parsed
    ]
    first = [options[0] for options in choices]
    lines = [first] + [
        [*first[:i], option, *first[i + 1 :]] for i, options in enumerate(choices) for option in options[1:]
    ]
    for line in lines:
        yield line, OverridesParser.create().parse_overrides(line)


def _swept(override: Override) -> list[str]:
    """The values of a sweep; of an interval, from which a search chooses, its ends."""
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [str(interval.start), str(interval.end)]
    return list(override.sweep_string_iterator())


def _check_names(config_name: str, overrides: list[Override]) -> None:
    """Every override names an existing group option or key; raises UsageError with the nearest one."""
    from hydra import compose
    from omegaconf import OmegaConf

    plain = compose(config_name, [searchpath()], return_hydra_config=True)
    groups = [group for group in plain.hydra.runtime.choices if not group.startswith("hydra/")]
    own = [o for o in overrides if not o.key_or_group.startswith("hydra")]
    chosen = []
    for override in own:
        key, value = override.key_or_group, override.value()
        if key in groups and value is not None and not override.is_delete():
            options = _options(key)
            if str(value) not in options:
                raise UsageError(f"{key}={value}: no such option; {nearest(str(value), options)}")
            chosen.append(str(override.input_line))
    known = _dotted(OmegaConf.to_container(compose(config_name, [*chosen, searchpath()])))
    for override in own:
        key = override.key_or_group
        if key not in groups and key not in known and not override.is_add() and not override.is_force_add():
            raise UsageError(f"unknown key {key}; {nearest(key, {*known, *groups})}")


def _options(group: str) -> list[str]:
    folder = conf_dir().parent if group == "experiments" else conf_dir()
    return sorted(path.stem for path in (folder / group).glob("*.yaml"))


def _dotted(value: Any, prefix: str = "", without: str = "") -> list[str]:
    """All keys of a nested mapping, dotted."""
    if not isinstance(value, dict):
        return []
    keys = []
    for key, child in value.items():
        name = f"{prefix}{key}"
        if name != without and key != "_target_":
            keys += [name, *_dotted(child, f"{name}.")]
    return keys


def first_line(error: Exception) -> str:
    """What an error says, less the lines behind its first one."""
    return str(error).strip().splitlines()[0]
