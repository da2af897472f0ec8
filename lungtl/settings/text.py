"""Text on the command line stays the text that was typed, which Hydra's grammar would read as a number or reject.

`sweep.name=2024.10` is not the number 2024.1, and `dataset.root=~/LIDC (1)` is a path.
"""

from __future__ import annotations

import os
import types
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin

from lungtl.settings.errors import UsageError
from lungtl.settings.keys import override_key
from lungtl.settings.parts import signature

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override

    from lungtl.settings.sections import Strict

Targets = Callable[[], Mapping[str, str]]
DATA_DIR, DATA_DIR_VARIABLE = "data_dir", "LUNGTL_DATA_DIR"
FOLDERS = (DATA_DIR, "output")
"""Options from which Hydra's own folders are derived, so that they must be absolute before it starts."""
STRUCTURED = ("'", '"', "[", "{")
"""How a value begins that is written in Hydra's grammar on purpose."""


def quoted(text: str) -> str:
    """A text as a value of Hydra's command line."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def quote_text(arguments: Sequence[str], schema: type[Strict], targets: Targets) -> list[str]:
    """Quote the values of a command line that Hydra would not read as the text that they are.

    Args:
        arguments: of the command line, flags included.
        schema: of the command's config.
        targets: returns the class of each part, see `composing.part_targets`; called once, and only if it is needed.

    Returns:
        The arguments; values that Hydra's grammar rejects, and numbers and words where an option expects text, are
        quoted, and a data folder is absolute.
    """
    targets = cache(targets)
    return [_quote(one, schema, targets) if "=" in one and not one.startswith("-") else one for one in arguments]


def make_data_dir_absolute() -> None:
    """Let LUNGTL_DATA_DIR mean the folder that the user's shell would mean, whatever the current folder becomes.

    Raises:
        UsageError: it is set, but empty.
    """
    folder = os.environ.get(DATA_DIR_VARIABLE)
    if folder == "":
        raise UsageError(f"{DATA_DIR_VARIABLE} is empty; unset it, or set it to a folder")
    if folder is not None:
        os.environ[DATA_DIR_VARIABLE] = str(Path(folder).expanduser().resolve())


def given_value(key: str, overrides: Sequence[str]) -> str | None:
    """The last value that a command line gives a text option, also in a mapping: `sweep={name: x}`; None if none."""
    found = None
    for line in overrides:
        outer, value = override_key(line), line.partition("=")[2]
        parsed = _parse(line)
        inner: Any = None if parsed is None else parsed.value()
        if outer == key:
            found = inner if isinstance(inner, str) else value
        elif key.startswith(f"{outer}.") and isinstance(inner, dict):
            for part in key.removeprefix(f"{outer}.").split("."):
                inner = inner.get(part) if isinstance(inner, dict) else None
            found = found if inner is None else str(inner)
    return found


def _quote(argument: str, schema: type[Strict], targets: Targets) -> str:
    name, _, value = argument.partition("=")
    parsed = _parse(argument)
    if parsed is None:
        readable = f"{name}={quoted(value)}"
        # with a comma it may be meant as several values: `checks.check` asks for quotes
        parsed = None if "," in value or "${" in value or value.startswith(STRUCTURED) else _parse(readable)
        if parsed is None:
            return argument
        argument = readable
    key, content = override_key(argument), parsed.value()
    if key in FOLDERS and isinstance(content, str) and content and "${" not in content:
        return f"{name}={quoted(str(Path(content).expanduser().resolve()))}"
    if parsed.is_sweep_override():
        values = value.split(",")
        elements = [_parse(f"{name}={one}") for one in values]
        if any(one is None or one.is_sweep_override() for one in elements):  # range(0,3), [a,b],[c,d]
            return argument
        contents = [one.value() for one in elements if one is not None]
    else:
        values, contents = [value], [content]
    if all(isinstance(one, str | dict | list) for one in contents):
        return argument
    kinds = _kinds_of(key, schema, targets)
    if not kinds & {str, Path} or not kinds <= {str, Path, types.NoneType}:
        return argument
    keeps = (str, types.NoneType) if types.NoneType in kinds else (str,)
    texts = [
        one if isinstance(read, keeps) else quoted(one.strip()) for one, read in zip(values, contents, strict=True)
    ]
    if key in FOLDERS and len(texts) == 1:
        return _quote(f"{name}={texts[0]}", schema, targets)
    return f"{name}={','.join(texts)}"


def _parse(line: str) -> Override | None:
    """A parsed override; None where Hydra's grammar rejects it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(line)
    except HydraException:
        return None


def _kinds_of(key: str, schema: type[Strict], targets: Targets) -> set[Any]:
    """The types that an option accepts, from the schema or the class of its part; empty where there is no such key."""
    part, _, option = key.partition(".")
    field = schema.model_fields.get(part)
    if field is None:
        return set()
    if get_origin(field.annotation) is dict:
        try:
            options = signature(targets().get(part, ""), part)
        except UsageError:  # reported with the rest of the command line
            return set()
        return _kinds(options[option].annotation) if option in options else set()
    if option:
        field = getattr(field.annotation, "model_fields", {}).get(option)
    return set() if field is None else _kinds(field.annotation)


def _kinds(annotation: Any) -> set[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return set().union(*map(_kinds, get_args(annotation)))
    return {origin or annotation}
