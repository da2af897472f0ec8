"""Build the exchangeable parts (dataset, backbone, freezing, aggregator, loss) that a config names.

A part's config is a mapping with `_target_` (the class, lungtl's or anyone's) and its options. The class's own
signature is the schema: `check` reads it from the source file, so that a wrong option is found before torch is loaded.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.nearest import nearest
from lungtl.settings.signatures import NotFound, Option, Signature, find_source, read_signature
from lungtl.settings.version import VERSION

TARGET = "_target_"
OWN = "lungtl"


def build(spec: Mapping[str, Any], **provided: Any) -> Any:
    """Instantiate what a config names.

    Args:
        spec: `_target_` and options.
        provided: arguments that lungtl fills in, such as the embedding size.

    Raises:
        UsageError: the class cannot be imported.
    """
    options = {str(key): value for key, value in spec.items() if key != TARGET}
    return _load(str(spec[TARGET]))(**options, **provided)


def build_trusted(spec: Mapping[str, Any], base: type, trust: str | Collection[str] = (), **provided: Any) -> Any:
    """Instantiate what a bundle names, which may come from a stranger.

    Args:
        spec: `_target_` and options.
        base: the class that it must be derived from.
        trust: see `trusted_class`.
        provided: arguments that lungtl fills in.

    Raises:
        LungtlError: see `trusted_class`.
    """
    trusted_class(spec, base, trust)
    return build(spec, **provided)


def trusted_class(spec: Mapping[str, Any], base: type, trust: str | Collection[str] = ()) -> type:
    """The class that a stranger's file names, if it may be instantiated.

    Args:
        spec: with `_target_`.
        base: the class that it must be derived from.
        trust: packages besides lungtl whose classes are allowed.

    Raises:
        LungtlError: the class is neither lungtl's nor of a trusted package, or of another kind.
    """
    target = str(spec.get(TARGET, ""))
    allowed = (OWN, *([trust] if isinstance(trust, str) else trust))
    remedy = "" if _top(target) == OWN else f"; if you trust its code, install it and add trust={_top(target)}"
    refusal = LungtlError(f"the model needs {TARGET}={target}, which is not a lungtl {base.__name__}{remedy}")
    if "." not in target or not _is_within(target, allowed):
        raise refusal
    loaded = _load(target)
    # a module's namespace also has what it imports
    if not isinstance(loaded, type) or not issubclass(loaded, base) or not _is_within(loaded.__module__, allowed):
        raise refusal
    return loaded


def _is_within(name: str, packages: Collection[str]) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def check(
    spec: Mapping[str, Any],
    where: str,
    provided: frozenset[str] = frozenset(),
    required: frozenset[str] = frozenset(),
) -> None:
    """Compare a part's config with its class's signature.

    Args:
        spec: `_target_` and options.
        where: its config key, for the message.
        provided: arguments that lungtl fills in.
        required: options that the class must have, since lungtl sets them when it rebuilds the part.

    Raises:
        UsageError: an unknown option, a missing one, or a value of the wrong type.
    """
    target = str(spec.get(TARGET, ""))
    signature = _signature(target, where)
    lacking = sorted((provided | required) - signature.options.keys())
    if lacking and not signature.open:
        raise UsageError(f"{where}.{TARGET}={target}: its __init__ must accept {lacking[0]}, which lungtl provides")
    known = {name: option for name, option in signature.options.items() if name not in provided}
    for key, value in spec.items():
        if key == TARGET:
            continue
        if key not in known:
            if signature.open and key not in provided:
                continue
            raise UsageError(f"unknown key {where}.{key}; {nearest(f'{where}.{key}', [f'{where}.{k}' for k in known])}")
        check_value(f"{where}.{key}", known[key].annotation, value)
    for name, option in known.items():
        if option.required and name not in spec:
            raise UsageError(f"{where}.{name} is missing; add {where}.{name}=VALUE")


def check_value(key: str, annotation: Any, value: Any) -> None:
    """Raise UsageError unless the value of a key is of a type; one that pydantic cannot check accepts every value."""
    from pydantic import PydanticUserError, TypeAdapter, ValidationError

    try:
        TypeAdapter(annotation).validate_python(value)
    except ValidationError as error:
        raise UsageError(describe(key, error.errors()[0])) from error
    except PydanticUserError:
        return


def signature(target: str, where: str) -> dict[str, Option]:
    """The options of a class, read from its source without importing it."""
    return _signature(target, where).options


def _signature(target: str, where: str) -> Signature:
    if "." not in target:
        raise UsageError(f"{where}.{TARGET}={target}: no such class; expected PACKAGE.MODULE.CLASS")
    try:
        return read_signature(target)
    except NotFound as error:
        raise UsageError(f"{where}.{TARGET}={target}: {error}") from error


def origin(spec: Mapping[str, Any]) -> dict[str, str | None]:
    """Where a part's code comes from.

    Returns:
        class: as the config names it.
        package: the distribution that installed it, or the top-level module where none did.
        version: of the distribution; None where there is none.
        sha256: of the source file that defines the class.
    """
    target = str(spec[TARGET])
    package, version = _distribution(_top(target))
    try:
        digest = hashlib.sha256(find_source(target).path.read_bytes()).hexdigest()
    except NotFound:
        digest = None
    return {"class": target, "package": package, "version": version, "sha256": digest}


def _distribution(top: str) -> tuple[str, str | None]:
    """Name and version of what installed a top-level module."""
    if top == OWN:
        return OWN, VERSION
    with suppress(metadata.PackageNotFoundError):
        return top, metadata.version(top)  # torch, timm; below, every package's list of files is read
    for name in metadata.packages_distributions().get(top, []):
        with suppress(metadata.PackageNotFoundError):
            return name, metadata.version(name)
    return top, None


def make_importable(folder: Path) -> None:
    """Let this process and those it starts import modules of a folder; what is installed takes precedence."""
    path = str(folder)
    if path not in sys.path:
        sys.path.append(path)
    inherited = [one for one in os.environ.get("PYTHONPATH", "").split(os.pathsep) if one]
    if path not in inherited:
        os.environ["PYTHONPATH"] = os.pathsep.join([*inherited, path])


def describe(key: str, error: Mapping[str, Any]) -> str:
    """A pydantic error as one line: the key, the value seen, what is expected."""
    value = error["input"]
    seen = f"{key}={value}" if isinstance(value, str | int | float | bool) or value is None else key
    message = f"{seen}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        expected = [c.strip(" '") for c in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{message}; {nearest(str(value), expected)}"
    return message


def _top(target: str) -> str:
    return target.partition(".")[0]


def _load(target: str) -> Any:
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UsageError(f"{TARGET}={target} cannot be imported: {error}") from error
