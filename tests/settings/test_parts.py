from __future__ import annotations

from typing import Annotated, get_args

import pytest

from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.sources.dicom import DicomSource

ATTENTION = "lungtl.models.aggregators.attention.Attention"


def test_the_signature_is_read_from_an_init() -> None:
    options = parts.signature(ATTENTION, "aggregator")
    assert list(options) == ["dim", "hidden"]
    assert options["dim"].required
    assert not options["hidden"].required
    assert get_args(options["hidden"].annotation)[0] is int
    assert options["hidden"].annotation.__class__ is Annotated[int, None].__class__


def test_the_signature_is_read_from_a_dataclass() -> None:
    options = parts.signature("lungtl.sources.dicom.DicomSource", "dataset")
    assert {name for name, option in options.items() if option.required} == {"root", "table"}


def test_build_makes_the_object() -> None:
    source = parts.build({"_target_": "lungtl.sources.dicom.DicomSource", "root": "a", "table": "b"})
    assert source == DicomSource("a", "b")


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "lungtlx.y.Z", "subprocess.Popen"])
def test_only_classes_of_lungtl_are_built(target: str) -> None:
    with pytest.raises(UsageError, match="only those are built"):
        parts.build({"_target_": target})


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": ATTENTION, "hiden": 3}, "unknown key aggregator.hiden; did you mean aggregator.hidden"),
        ({"_target_": ATTENTION, "dim": 3}, "unknown key aggregator.dim"),
        ({"_target_": ATTENTION, "hidden": 0}, "aggregator.hidden=0: input should be greater than or equal to 1"),
        ({"_target_": "lungtl.models.aggregators.attention.Atention"}, "has no class Atention"),
        ({"_target_": "lungtl.models.nothing.Attention"}, "no such class"),
        ({}, "no such class"),
    ],
)
def test_check_names_what_is_wrong(spec: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parts.check(spec, "aggregator", frozenset({"dim"}))


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"dataset\.table is missing"):
        parts.check({"_target_": "lungtl.sources.dicom.DicomSource", "root": "a"}, "dataset")
