"""The options of any installed class, read from its source file without importing it.

A wrong option is then found within a second, before torch or someone else's package is loaded.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from pkgutil import iter_modules
from typing import Annotated, Any, Literal, Optional, Union

import annotated_types

from lungtl.settings.nearest import nearest

CLOSED = {"object", "abc.ABC", "typing.Generic", "typing.Protocol", "torch.nn.Module"}
"""Base classes that take no options; reading torch's own would be slow."""
_NAMES: dict[str, Any] = {name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Lt")} | {
    "Annotated": Annotated, "Any": Any, "Literal": Literal, "None": None, "Optional": Optional,
    "Path": Path, "Union": Union,
    "bool": bool, "dict": dict, "float": float, "int": int, "list": list, "str": str, "tuple": tuple,
}  # fmt: skip
PLAIN_NODES = (
    ast.Subscript,
    ast.BinOp,
    ast.BitOr,
    ast.Tuple,
    ast.List,
    ast.Constant,
    ast.UnaryOp,
    ast.USub,
    ast.keyword,
    ast.expr_context,
)


class NotFound(Exception):
    """There is no source of such a class; the message says what is missing, and the nearest name."""


@dataclass(frozen=True)
class Option:
    """One option: its annotation (Any if it cannot be read) and whether it must be given."""

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """The options of a class or function; `open` if it takes any others, too (`**kwargs`)."""

    options: dict[str, Option]
    open: bool = False


@dataclass(frozen=True)
class Source:
    """Where a class or function is defined."""

    module: str
    path: Path
    node: ast.ClassDef | ast.FunctionDef


def read_signature(target: str) -> Signature:
    """The options of the class or function that a dotted name refers to.

    Raises:
        NotFound: it has no Python source.
    """
    source = find_source(target)
    if isinstance(source.node, ast.FunctionDef):
        return _of_function(source.node, skip=0)
    return _of_class(source, source.node) or Signature({})


def find_source(target: str, seen: frozenset[str] = frozenset()) -> Source:
    """Where the class or function is defined; imports that only pass it on are followed.

    Args:
        target: its dotted name.
        seen: targets that led here.

    Raises:
        NotFound: it has no Python source.
    """
    module, _, name = target.rpartition(".")
    path, body = _parse(module)
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return Source(module, path, node)
    for imported in _imported(name, module, path, body):
        if imported in seen:  # modules may import each other
            continue
        try:
            return find_source(imported, seen | {target})
        except NotFound:
            continue
    known = {node.name for node in body if isinstance(node, ast.ClassDef)}
    known |= {alias.asname or alias.name for node in body if isinstance(node, ast.ImportFrom) for alias in node.names}
    raise NotFound(f"{path.name} has no class {name}; {nearest(name, known - {'*', 'annotations'})}")


def _imported(name: str, module: str, path: Path, body: list[ast.stmt]) -> Iterator[str]:
    """The full dotted names that a module may have imported under this name."""
    for node in body:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname == name or (alias.asname is None and alias.name.partition(".")[0] == name):
                    yield alias.name if alias.asname else name
        elif isinstance(node, ast.ImportFrom):
            origin = _absolute(node, module, path)
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    yield f"{origin}.{alias.name}"
                elif alias.name == "*":
                    yield f"{origin}.{name}"


def _absolute(node: ast.ImportFrom, module: str, path: Path) -> str:
    """The module that `from X import` names, where X may be relative."""
    if not node.level:
        return node.module or ""
    parts = module.split(".")
    up = node.level - 1 if path.name == "__init__.py" else node.level
    return ".".join([*parts[: len(parts) - up], *([node.module] if node.module else [])])


@lru_cache(maxsize=64)
def _parse(module: str) -> tuple[Path, list[ast.stmt]]:
    """A module's file, and its statements at the top level, those below `if` and `try` included."""
    path = _module_file(module)
    return path, list(_statements(ast.parse(path.read_bytes()).body))


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        if isinstance(node, ast.If | ast.Try):
            yield from _statements([*node.body, *node.orelse])
        if isinstance(node, ast.Try):
            yield from _statements([inner for handler in node.handlers for inner in handler.body])


def _module_file(module: str) -> Path:
    """The source file of a module. Nothing is imported: only the top-level package is looked up."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top) if top else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise NotFound(f"no module {top}; install it, or run the command in the folder that contains it")
    name = top
    for part in rest:
        name, folders = f"{name}.{part}", spec.submodule_search_locations or []
        spec = PathFinder.find_spec(name, folders)
        if spec is None:
            raise NotFound(f"no module {name}; {nearest(part, [one.name for one in iter_modules(folders)])}")
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise NotFound(f"module {module} has no Python source")
    return Path(spec.origin)


def _of_class(source: Source, node: ast.ClassDef) -> Signature | None:
    """The options of a class's own or inherited `__init__`; None if there is none."""
    methods = [child for child in node.body if isinstance(child, ast.FunctionDef) and child.name == "__init__"]
    implemented = [method for method in methods if not any(_dotted(d) == "overload" for d in method.decorator_list)]
    if implemented:
        return _of_function(implemented[-1], skip=1)
    inherited = [_of_base(base, source) for base in node.bases]
    first = next((signature for signature in inherited if signature is not None), None)
    if not any((_dotted(d) or "").rpartition(".")[2] == "dataclass" for d in node.decorator_list):
        return first
    fields = {
        child.target.id: Option(_annotation(child.annotation), child.value is None)
        for child in node.body
        if isinstance(child, ast.AnnAssign) and isinstance(child.target, ast.Name)
    }
    return Signature({**(first.options if first else {}), **fields})


def _of_base(base: ast.expr, source: Source) -> Signature | None:
    name = _dotted(base)
    if name is None:
        return Signature({}, open=True)
    first, _, rest = name.partition(".")
    path, body = _parse(source.module)
    here = any(isinstance(node, ast.ClassDef) and node.name == first for node in body)
    candidates = [f"{source.module}.{first}"] if here else list(_imported(first, source.module, path, body))
    for candidate in candidates:
        target = f"{candidate}.{rest}" if rest else candidate
        if target in CLOSED:
            return None
        try:
            found = find_source(target)
        except NotFound:
            continue
        return _of_class(found, found.node) if isinstance(found.node, ast.ClassDef) else None
    return Signature({}, open=True) if candidates else None  # not imported: a built-in class


def _of_function(node: ast.FunctionDef, skip: int) -> Signature:
    """A function's options, without its first `skip` arguments (self)."""
    positional = [*node.args.posonlyargs, *node.args.args]
    missing = len(positional) - len(node.args.defaults)
    defaults = [*[None] * missing, *node.args.defaults, *node.args.kw_defaults]
    arguments = list(zip([*positional, *node.args.kwonlyargs], defaults, strict=True))[skip:]
    options = {}
    for argument, default in arguments:
        annotation = _annotation(argument.annotation)
        if isinstance(default, ast.Constant) and default.value is None:
            annotation = annotation | None
        options[argument.arg] = Option(annotation, default is None)
    return Signature(options, open=node.args.kwarg is not None)


def _annotation(node: ast.expr | None) -> Any:
    """The type that an annotation names; Any where it uses names beyond the plain ones."""
    try:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node = ast.parse(node.value, mode="eval").body
        if node is None or not all(_is_plain(inner) for inner in ast.walk(node)):
            return Any
        return eval(compile(ast.Expression(node), "<annotation>", "eval"), {"__builtins__": {}}, dict(_NAMES))
    except Exception:  # an annotation can be any expression
        return Any


def _is_plain(node: ast.AST) -> bool:
    """True for what a harmless annotation consists of: known names, subscripts, unions, constants, `Ge(0)`."""
    if isinstance(node, ast.Name):
        return node.id in _NAMES
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name)
    return isinstance(node, PLAIN_NODES)


def _dotted(node: ast.expr) -> str | None:
    """`nn.Module`, `Generic[T]` and `dataclass(frozen=True)` as dotted names."""
    while isinstance(node, ast.Call | ast.Subscript):
        node = node.func if isinstance(node, ast.Call) else node.value
    name = ast.unparse(node)
    return name if all(part.isidentifier() for part in name.split(".")) else None
