"""Check a command line before anything heavy is imported; what is wrong becomes one line with the nearest name.

Nothing here imports torch.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from lungtl.settings.errors import UsageError, first_line
from lungtl.settings.folders import conf_dir, option_files, search_path
from lungtl.settings.keys import flatten
from lungtl.settings.nearest import nearest
from lungtl.settings.parts import describe
from lungtl.settings.text import quoted

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from lungtl.settings.sections import Strict

C = TypeVar("C", bound="Strict")


def check(
    config_name: str, schema: type[C], overrides: list[str], multirun: bool, folders: Sequence[Path] = ()
) -> tuple[C, Mapping[str, object]]:
    """Compose and validate a command line; in a sweep, every value that is swept.

    Args:
        config_name: the primary config.
        schema: its typed form.
        overrides: of the command line.
        multirun: whether the command line has `-m`.
        folders: of `user_folders`.

    Returns:
        The config, of a sweep's last variant; and config group -> the option that was chosen.

    Raises:
        UsageError: the first thing that is wrong, with the nearest right one.
    """
    from hydra import compose
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    search = search_path(folders)
    with hydra_on_conf():
        parser = OverridesParser.create(GlobalHydra.instance().config_loader())
        try:
            parsed = parser.parse_overrides(overrides)
        except HydraException as error:
            raise _unreadable(overrides, error) from error
        swept = any(override.is_sweep_override() for override in parsed)
        for lines in _variants(parsed):
            variant = parser.parse_overrides(lines) if swept else parsed
            _check_options(variant, folders)
            try:
                composed = compose(config_name, [*lines, search], return_hydra_config=True)
            except (HydraException, ValueError) as error:  # ValueError: GROUP=null without such a group
                _check_keys(config_name, variant, search)  # for a better message
                raise UsageError(first_line(error)) from error
            if composed.hydra.job.chdir:
                raise UsageError("hydra.job.chdir=true: paths are relative to the folder of the command; omit it")
            own = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
            config = validate(schema, own)
        is_sweep = multirun or composed.hydra.mode == RunMode.MULTIRUN
        choices = dict(composed.hydra.runtime.choices)
        _check_sweep(parsed, is_sweep, str(choices["hydra/sweeper"]))
    return config, choices


def _unreadable(overrides: Sequence[str], error: Exception) -> UsageError:
    """What to do about an override that Hydra's grammar rejects, which is not written KEY=VALUE or not quoted."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for line in overrides:
        try:
            OverridesParser.create().parse_override(line)
        except HydraException:
            key, equals, value = line.partition("=")
            if not equals:
                return UsageError(f"{line}: overrides are written key=value")
            remedy = shlex.quote(f"{key}={quoted(value)}")
            return UsageError(f"{line}: {first_line(error)}; if the value is text, quote it twice: {remedy}")
    return UsageError(first_line(error))


@contextmanager
def hydra_on_conf() -> Iterator[None]:
    """Hydra on lungtl's config folder, also inside a command, whose own Hydra is restored afterwards."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.initialize import get_gh_backup, restore_gh_from_backup

    backup = get_gh_backup()
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            yield
    finally:
        restore_gh_from_backup(backup)


def _check_sweep(overrides: list[Override], is_sweep: bool, sweeper: str) -> None:
    """Raise UsageError if a single run gets several values for a key, or a sweep without a search gets a range."""
    swept = [override for override in overrides if override.is_sweep_override()]
    if swept and not is_sweep:
        first = swept[0]
        remedy = "-m hydra/sweeper=optuna to search it" if first.is_interval_sweep() else "-m to make a run of each"
        raise UsageError(
            f"{first.input_line} has several values; add {remedy}, or where a comma is part of one value, quote it "
            f"twice: '{first.get_key_element()}=\"...\"'"
        )
    interval = next((override for override in swept if override.is_interval_sweep()), None)
    if interval is not None and sweeper == "basic":
        raise UsageError(f"{interval.input_line} is a range to search; add hydra/sweeper=optuna, or give values")


def validate(schema: type[C], composed: DictConfig) -> C:
    """A composed config in its typed form; raises UsageError for the first wrong value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(f"{missing[0]} is missing; add {missing[0]}=VALUE to the command")
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(first_line(error)) from error
    for key, value in flatten(plain).items():
        if value == "":
            raise UsageError(f"{key} is empty; give it a value, or omit it")
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() and "[" not in str(part))
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown key {key}; {nearest(key, _dotted(plain, without=key))}") from error
        raise UsageError(describe(key, first)) from error


def _variants(parsed: list[Override]) -> Iterator[list[str]]:
    """Command lines without sweeps: the first value of each key, then every other value of one key at a time."""
    values = [
        [f"{o.get_key_element()}={value}" for value in swept_values(o)]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in parsed
    ]
    first = [lines[0] for lines in values]
    yield first
    for i, lines in enumerate(values):
        for line in lines[1:]:
            yield [*first[:i], line, *first[i + 1 :]]


def swept_values(override: Override) -> list[str]:
    """The values of a sweep; both ends of an interval, from which a search chooses.

    Raises:
        UsageError: there is none.
    """
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [str(interval.start), str(interval.end)]
    values = list(override.sweep_string_iterator())
    if not values:
        raise UsageError(f"{override.input_line} matches no value; use a wider pattern or range")
    return values


def _check_options(overrides: list[Override], folders: Sequence[Path]) -> None:
    """Raise UsageError, with the nearest option, if a config group has no such option."""
    for override in overrides:
        group, value = override.key_or_group, override.value()
        if not group.isidentifier() or group == "hydra" or override.is_delete():
            continue
        options = option_files(group, folders)
        if options and value is not None and not isinstance(value, dict) and str(value) not in options:
            raise UsageError(f"{group}={value}: no such option; {nearest(str(value), options)}")


def _check_keys(config_name: str, overrides: list[Override], search: str) -> None:
    """Raise UsageError, with the nearest key, if a key does not exist."""
    from hydra import compose
    from hydra.errors import HydraException
    from omegaconf import OmegaConf

    plain = compose(config_name, [search], return_hydra_config=True)
    groups = {str(group) for group in plain.hydra.runtime.choices if not group.startswith("hydra/")}
    own = [override for override in overrides if not override.key_or_group.startswith("hydra")]
    chosen = [str(o.input_line) for o in own if o.key_or_group in groups and not isinstance(o.value(), dict)]
    try:
        known = set(_dotted(OmegaConf.to_container(compose(config_name, [*chosen, search])))) | groups
    except HydraException:  # something other than a key is wrong
        return
    for override in own:
        if override.is_add() or override.is_force_add():
            continue
        key = override.key_or_group
        for name in (key, *_dotted(override.value(), f"{key}.")):
            if name not in known:
                raise UsageError(f"unknown key {name}; {nearest(name, known)}")


def _dotted(value: Any, prefix: str = "", without: str = "") -> list[str]:
    """All keys of a nested mapping, dotted."""
    if not isinstance(value, dict):
        return []
    keys = []
    for key, child in value.items():
        name = f"{prefix}{key}"
        if name != without and key != "_target_":
            keys += [name, *_dotted(child, f"{name}.", without)]
    return keys
