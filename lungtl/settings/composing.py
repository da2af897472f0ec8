"""A command line as a checked config: what is wrong with it is said in a line, with the nearest right name.

Nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lungtl.settings.errors import UsageError
from lungtl.settings.nearest import nearest

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from lungtl.settings.schema import Strict

C = TypeVar("C", bound="Strict")
EXPERIMENTS = "experiments"
"""The config group whose options lie beside conf/."""


def conf_dir() -> Path:
    """The folder of the configs: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parents[1]
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
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        try:
            parsed = parser.parse_overrides(overrides)
        except HydraException as error:
            raise UsageError(f"{first_line(error)}; overrides are written key=value") from error
        for lines in _variants(parsed):
            variant = parser.parse_overrides(lines)
            _check_options(variant)
            try:
                composed = compose(config_name, [*lines, searchpath()])
            except HydraException as error:
                _check_keys(config_name, variant)  # to say it better
                raise UsageError(first_line(error)) from error
            validate(schema, composed)
        _check_sweep(config_name, parsed, multirun)


def _check_sweep(config_name: str, overrides: list[Override], multirun: bool) -> None:
    """Raise UsageError where a key has several values and the command makes one run, or a range is not searched."""
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode

    swept = [override for override in overrides if override.is_sweep_override()]
    if not swept:
        return
    hydra = GlobalHydra.instance().hydra
    assert hydra is not None
    lines = [str(override.input_line) for override in overrides]
    if not multirun and hydra.get_mode(config_name, [*lines, searchpath()]) != RunMode.MULTIRUN:
        one = swept[0]
        way = "-m hydra/sweeper=optuna to search it" if one.is_interval_sweep() else "-m to make a run of each"
        raise UsageError(
            f"{one.input_line} has several values; add {way}, or where a comma is part of one value, quote it twice: "
            f"'{one.get_key_element()}=\"...\"'"
        )
    for one in swept:
        if one.is_interval_sweep():
            fixed = [str(o.input_line) for o in overrides if not o.is_sweep_override()]
            composed = compose(config_name, [*fixed, searchpath()], return_hydra_config=True)
            if composed.hydra.runtime.choices["hydra/sweeper"] == "basic":
                raise UsageError(f"{one.input_line} is a range to search; add hydra/sweeper=optuna, or give values")


def validate(schema: type[C], composed: DictConfig) -> C:
    """A composed config as its typed form; raises UsageError for the first wrong value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    from lungtl.settings.parts import describe

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


def _variants(parsed: list[Override]) -> Iterator[list[str]]:
    """Command lines without sweeps: the first value of each, then every further value of one at a time."""
    choices = [
        [f"{o.get_key_element()}={value}" for value in _swept(o)] if o.is_sweep_override() else [str(o.input_line)]
        for o in parsed
    ]
    first = [options[0] for options in choices]
    yield first
    for i, options in enumerate(choices):
        for option in options[1:]:
            yield [*first[:i], option, *first[i + 1 :]]


def _swept(override: Override) -> list[str]:
    """The values of a sweep; of an interval, from which a search chooses, its ends.

    Raises:
        UsageError: there is none.
    """
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [str(interval.start), str(interval.end)]
    values = list(override.sweep_string_iterator())
    if not values:
        raise UsageError(f"{override.input_line} gives no value; widen it")
    return values


def _check_options(overrides: list[Override]) -> None:
    """Every option of a group exists; raises UsageError with the nearest one."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        options = _options(group)
        named = value is not None and not isinstance(value, dict) and not override.is_delete()
        if options and named and str(value) not in options:
            raise UsageError(f"{group}={value}: no such option; {nearest(str(value), options)}")


def _check_keys(config_name: str, overrides: list[Override]) -> None:
    """Every key exists; raises UsageError with the nearest one."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    plain = compose(config_name, [searchpath()], return_hydra_config=True)
    groups = {str(group) for group in plain.hydra.runtime.choices if not group.startswith("hydra/")}
    own = [override for override in overrides if not override.key_or_group.startswith("hydra")]
    chosen = [str(o.input_line) for o in own if o.key_or_group in groups and not isinstance(o.value(), dict)]
    try:
        known = set(_dotted(OmegaConf.to_container(compose(config_name, [*chosen, searchpath()]))))
    except HydraException:  # what is wrong are not the keys
        return
    for override in own:
        if override.is_add() or override.is_force_add():
            continue
        key = override.key_or_group
        for name in (key, *_dotted(override.value(), f"{key}.")):
            if name not in known | groups:
                raise UsageError(f"unknown key {name}; {nearest(name, known | groups)}")


def _options(group: str) -> list[str]:
    """Those of a config group; none of what is no group, or is Hydra's own."""
    if not group.isidentifier() or group == "hydra":
        return []
    folder = conf_dir().parent if group == EXPERIMENTS else conf_dir()
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
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def compose_config(config_name: str, schema: type[C], overrides: list[str]) -> C:
    """Compose and check a config outside a command; raises UsageError for the first wrong key or value."""
    from hydra import compose, initialize_config_dir

    from lungtl.settings.schema import TrainConfig

    check(config_name, schema, overrides, multirun=False)
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose(config_name, [*overrides, searchpath()], return_hydra_config=True)
    choices = dict(composed.hydra.runtime.choices)
    del_hydra = {key: composed[key] for key in composed if key != "hydra"}
    from omegaconf import OmegaConf

    config = validate(schema, OmegaConf.create(del_hydra))
    return config.composed_from(choices, overrides) if isinstance(config, TrainConfig) else config
