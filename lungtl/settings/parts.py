"""Build the exchangeable parts (dataset, backbone, freezing, aggregator, loss) that a config names.

A part's config is a mapping with `_target_` (the class) and its options. The class's own signature is the schema:
it is read from the source file without importing it, so that a wrong option is found before torch is loaded.
"""

from __future__ import annotations

import ast
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import annotated_types

from lungtl.settings.errors import UsageError
from lungtl.settings.nearest import nearest

TARGET = "_target_"
PACKAGE = Path(__file__).parents[1]
_NAMES = {name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Lt")} | {
    "Annotated": Annotated, "Any": Any, "Literal": Literal, "None": None, "bool": bool, "dict": dict,
    "float": float, "int": int, "list": list, "str": str, "tuple": tuple,
}  # fmt: skip


@dataclass(frozen=True)
class Option:
    """One option of a part: its annotation (Any when it cannot be read) and whether it must be given."""

    annotation: Any
    required: bool


def build(spec: Mapping[str, Any], **provided: Any) -> Any:
    """Instantiate what a config names.

    Args:
        spec: `_target_` and options.
        provided: arguments that the framework fills in, such as the embedding size.
    """
    options = {str(key): value for key, value in spec.items() if key != TARGET}
    return _load(str(spec[TARGET]))(**options, **provided)


def check(spec: Mapping[str, Any], where: str, provided: frozenset[str] = frozenset()) -> None:
    """Hold a part's config against its class's signature.

    Args:
        spec: `_target_` and options.
        where: the config key it stands under, for the message.
        provided: arguments that the framework fills in.

    Raises:
        UsageError: an unknown option, a missing one, or a value of the wrong type.
    """
    from pydantic import TypeAdapter, ValidationError

    options = signature(str(spec.get(TARGET, "")), where)
    known = {name: option for name, option in options.items() if name not in provided}
    for key, value in spec.items():
        if key == TARGET:
            continue
        if key not in known:
            raise UsageError(f"unknown key {where}.{key}; {nearest(f'{where}.{key}', [f'{where}.{k}' for k in known])}")
        try:
            TypeAdapter(known[key].annotation).validate_python(value)
        except ValidationError as error:
            raise UsageError(describe(f"{where}.{key}", error.errors()[0])) from error
    for name, option in known.items():
        if option.required and name not in spec:
            raise UsageError(f"{where}.{name} is missing; give {where}.{name}=VALUE")


def describe(key: str, error: Mapping[str, Any]) -> str:
    """A pydantic error as one line: the key, the value seen, the value wanted."""
    value = error["input"]
    shown = f"{key}={value}" if isinstance(value, str | int | float | bool) or value is None else key
    message = f"{shown}: {error['msg'][0].lower()}{error['msg'][1:]}"
    if error["type"] == "literal_error":
        choices = [c.strip(" '") for c in error["ctx"]["expected"].replace(" or ", ", ").split(",")]
        return f"{message}; {nearest(str(value), choices)}"
    return message


def signature(target: str, where: str) -> dict[str, Option]:
    """The options of a class of lungtl, read from its source without importing it."""
    module, _, name = target.rpartition(".")
    path = PACKAGE.parent / f"{module.replace('.', '/')}.py"
    if not module.startswith("lungtl.") or not path.is_file():
        raise UsageError(f"{where}.{TARGET}={target}: no such class; wanted lungtl.PART.MODULE.CLASS")
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef) and node.name == name:
            return _class_options(node)
    raise UsageError(f"{where}.{TARGET}={target}: {path.name} has no class {name}")


def _class_options(node: ast.ClassDef) -> dict[str, Option]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef) and child.name == "__init__":
            arguments = [*child.args.args[1:], *child.args.kwonlyargs]
            first_default = len(child.args.args) - 1 - len(child.args.defaults)
            defaults = [None] * first_default + list(child.args.defaults) + list(child.args.kw_defaults)
            return {
                argument.arg: Option(_annotation(argument.annotation), default is None)
                for argument, default in zip(arguments, defaults, strict=True)
            }
    fields = [c for c in node.body if isinstance(c, ast.AnnAssign) and isinstance(c.target, ast.Name)]
    return {f.target.id: Option(_annotation(f.annotation), f.value is None) for f in fields}  # type: ignore[union-attr]


def _annotation(node: ast.expr | None) -> Any:
    """The type that an annotation names; Any where it uses names beyond the plain ones."""
    if node is None:
        return Any
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    if not names <= _NAMES.keys():
        return Any
    return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, dict(_NAMES))


def _load(target: str) -> Any:
    """Import a class of lungtl; anything else is refused, since configs and bundles may come from strangers."""
    module, _, name = target.rpartition(".")
    if not module.startswith("lungtl."):
        raise UsageError(f"{TARGET}={target} is not a class of lungtl; only those are built")
    return getattr(importlib.import_module(module), name)
