from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest

from lungtl.settings.signatures import NotFound, find_source, read_signature

MODULE = """
from __future__ import annotations
from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
import torch.nn as tnn
from torch import nn
from typing import Generic, TypeVar, overload
from . import base
from .base import Base as Renamed
from .missing import Unknown

T = TypeVar("T")

class OfModule(nn.Module, ABC): ...
class OfModuleToo(tnn.Module): ...
class OfBase(Renamed): ...
class OfBaseByModule(base.Base): ...
class OfBuiltin(Exception): ...
class OfUnknown(Unknown): ...
class OfGeneric(Generic[T]): ...

class Overloaded:
    @overload
    def __init__(self, wrong: int) -> None: ...
    def __init__(self, a, /, b: "int" = 1, *, c: Sequence[int], d: float = None, e: list[float] = []) -> None: ...

@dataclass(frozen=True)
class Fields(base.Point):
    z: float = 0.0

if True:
    class Conditional:
        def __init__(self, x: int) -> None: ...

def factory(size: int = 3, **more): ...
"""
BASE = """
from dataclasses import dataclass

class Base:
    def __init__(self, width: int, *rest: int, **more: object) -> None: ...

@dataclass
class Point:
    x: float
    y: float = 0.0
"""


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """A package `pack` that Python could import, under a name of each test's own: files are read once a process."""
    folder = tmp_path / name_of(request)
    folder.mkdir()
    (folder / "__init__.py").write_text("from .module import Fields as Points, OfModule\nfrom .base import *\n")
    (folder / "module.py").write_text(MODULE)
    (folder / "base.py").write_text(BASE)
    monkeypatch.syspath_prepend(tmp_path)


def name_of(request: pytest.FixtureRequest) -> str:
    return "pack_" + "".join(letter if letter.isalnum() else "_" for letter in request.node.name)


@pytest.mark.parametrize(
    ("name", "required", "optional", "is_open"),
    [
        ("module.OfModule", [], [], False),
        ("module.OfModuleToo", [], [], False),
        ("module.OfBase", ["width"], [], True),
        ("module.OfBaseByModule", ["width"], [], True),
        ("module.OfBuiltin", [], [], False),
        ("module.OfGeneric", [], [], False),
        ("module.OfUnknown", [], [], True),  # what cannot be read may take anything
        ("module.Overloaded", ["a", "c"], ["b", "d", "e"], False),
        ("module.Fields", ["x"], ["y", "z"], False),
        ("module.Conditional", ["x"], [], False),
        ("module.factory", [], ["size"], True),
        ("Points", ["x"], ["y", "z"], False),
        ("OfModule", [], [], False),
        ("Base", ["width"], [], True),
    ],
)
def test_options_are_read(
    request: pytest.FixtureRequest, name: str, required: list[str], optional: list[str], is_open: bool
) -> None:
    signature = read_signature(f"{name_of(request)}.{name}")
    assert [name for name, option in signature.options.items() if option.required] == required
    assert [name for name, option in signature.options.items() if not option.required] == optional
    assert signature.open == is_open


def test_annotations_are_read(request: pytest.FixtureRequest) -> None:
    options = read_signature(f"{name_of(request)}.module.Overloaded").options
    assert {name: option.annotation for name, option in options.items()} == {
        "a": Any, "b": int, "c": Any, "d": float | None, "e": list[float]
    }  # fmt: skip


def test_constraints_are_read() -> None:
    options = read_signature("lungtl.models.aggregators.attention.Attention").options
    assert list(options) == ["dim", "hidden"]
    assert get_args(options["hidden"].annotation)[0] is int
    assert options["hidden"].annotation.__class__ is Annotated[int, None].__class__


@pytest.mark.parametrize(
    ("target", "message"),
    [("module.Feilds", "did you mean Fields?"), ("modul.Fields", "did you mean module?"), ("nothing.x.Y", "no module")],
)
def test_a_class_that_does_not_exist(request: pytest.FixtureRequest, target: str, message: str) -> None:
    with pytest.raises(NotFound) as error:
        find_source(f"{name_of(request)}.{target}")
    assert message in str(error.value)


@pytest.mark.parametrize("target", ["sys.X", "no_such_package_anywhere.X", ".X", "X"])
def test_a_module_without_source(target: str) -> None:
    with pytest.raises(NotFound):
        find_source(target)


def test_a_module_that_imports_itself_ends(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    (tmp_path / name_of(request) / "loop.py").write_text("from .loop import X\nfrom .loop import *\n")
    with pytest.raises(NotFound):
        find_source(f"{name_of(request)}.loop.X")


def test_torch_is_read_but_not_imported() -> None:
    code = (
        "import sys; from lungtl.settings.signatures import find_source, read_signature as read\n"
        "assert find_source('torch.optim.AdamW').path.name == 'adamw.py'\n"
        "assert read('torch.optim.AdamW').options['params'].required\n"
        "assert read('torch.optim.SGD').options['nesterov'].annotation is bool\n"
        "assert 'T_max' in read('torch.optim.lr_scheduler.CosineAnnealingLR').options\n"
        "assert 'optimizer' in read('timm.scheduler.CosineLRScheduler').options\n"
        "assert 'betas' in read('timm.optim.AdamP').options\n"
        "assert 'torch' not in sys.modules and 'timm' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
