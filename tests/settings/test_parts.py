from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lungtl import __version__
from lungtl.settings import parts, signatures
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import Source
from lungtl.sources.dicom import DicomSource

ATTENTION = "lungtl.models.aggregators.attention.Attention"
DICOM = "lungtl.sources.dicom.DicomSource"
LAB = """
class Mine:
    def __init__(self, dim: int, hidden: int = 3) -> None:
        self.hidden = hidden

class Anything:
    def __init__(self, **options):
        self.options = options
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with a package `somelab` that Python can import."""
    (tmp_path / "somelab").mkdir()
    (tmp_path / "somelab" / "agg.py").write_text(LAB)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "somelab"]:
        del sys.modules[name]
    signatures._parse.cache_clear()


def test_build_makes_the_object() -> None:
    source = parts.build({"_target_": DICOM, "root": "a", "table": "b"})
    assert source == DicomSource("a", "b")


def test_a_class_of_another_package_is_built(lab: Path) -> None:
    assert parts.build({"_target_": "somelab.agg.Mine", "hidden": 5}, dim=1).hidden == 5


@pytest.mark.parametrize("target", ["somelab.nothing.Mine", "somelab.agg.Nothing", "nowhere.X", "Mine"])
def test_a_class_that_cannot_be_imported_is_named(lab: Path, target: str) -> None:
    with pytest.raises(UsageError, match=f"_target_={target} cannot be imported"):
        parts.build({"_target_": target})


@pytest.mark.parametrize("target", ["os.system", "builtins.eval", "subprocess.Popen", "lungtlx.y.Z", "somelab.agg.Mine",
                                    "lungtl.runs.model.Path", "lungtl.data.store.reader.Store",
                                    "lungtl.settings.parts.build", "lungtl", ""])  # fmt: skip
def test_a_bundle_names_classes_of_lungtl_only(lab: Path, target: str) -> None:
    with pytest.raises(LungtlError, match="is not a lungtl Source") as error:
        parts.build_trusted({"_target_": target}, Source, dim=1)
    assert "\n" not in str(error.value)
    assert "somelab" not in sys.modules


def test_a_package_that_is_trusted_is_built(lab: Path) -> None:
    with pytest.raises(LungtlError, match="trust=somelab"):
        parts.build_trusted({"_target_": "somelab.agg.Mine"}, object, ["otherlab"], dim=1)
    built: Any = parts.build_trusted({"_target_": "somelab.agg.Mine"}, object, ["somelab"], dim=1)
    assert built.hidden == 3
    with pytest.raises(LungtlError, match="not a lungtl Source"):
        parts.build_trusted({"_target_": "somelab.agg.Mine"}, Source, ["somelab"], dim=1)
    assert parts.build_trusted({"_target_": DICOM, "root": "a", "table": "b"}, Source) == DicomSource("a", "b")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"_target_": ATTENTION, "hiden": 3}, "unknown key aggregator.hiden; did you mean aggregator.hidden"),
        ({"_target_": ATTENTION, "dim": 3}, "unknown key aggregator.dim"),
        ({"_target_": ATTENTION, "hidden": 0}, "aggregator.hidden=0: input should be greater than or equal to 1"),
        ({"_target_": "lungtl.models.aggregators.attention.Atention"}, "did you mean Attention?"),
        ({"_target_": "lungtl.models.aggregators.atention.Attention"}, "did you mean attention?"),
        ({"_target_": "somelab.agg.Mine", "hiden": 3}, "did you mean aggregator.hidden?"),
        ({"_target_": "somelab.agg.Mine", "hidden": "x"}, "aggregator.hidden=x: input should be a valid integer"),
        ({"_target_": "somelab.agg.Mein"}, "did you mean Mine?"),
        ({"_target_": "somelab.agg.Anything", "dim": 3}, "unknown key aggregator.dim"),
        ({"_target_": "sumlab.agg.Mine"}, "no module sumlab; install it, or run the command in the folder"),
        ({"_target_": DICOM, "root": "a", "table": "b"}, "its __init__ must accept dim, which lungtl provides"),
        ({"_target_": "Mine"}, "expected PACKAGE.MODULE.CLASS"),
        ({}, "no such class"),
    ],
)
def test_check_names_what_is_wrong(lab: Path, spec: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        parts.check(spec, "aggregator", frozenset({"dim"}))
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert "somelab" not in sys.modules  # nothing was imported


@pytest.mark.parametrize("spec", [{"_target_": "somelab.agg.Mine", "hidden": 5}, {"_target_": "somelab.agg.Anything"},
                                  {"_target_": "somelab.agg.Anything", "x": 1}])  # fmt: skip
def test_check_passes_what_is_right(lab: Path, spec: dict[str, object]) -> None:
    parts.check(spec, "aggregator", frozenset({"dim"}))


def test_a_missing_option_is_named() -> None:
    with pytest.raises(UsageError, match=r"dataset\.table is missing"):
        parts.check({"_target_": DICOM, "root": "a"}, "dataset")


def test_the_origin_of_a_part_of_lungtl() -> None:
    import lungtl.models.aggregators.attention as module

    digest = hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()
    expected = {"class": ATTENTION, "package": "lungtl", "version": __version__, "sha256": digest}
    assert parts.origin({"_target_": ATTENTION, "hidden": 3}) == expected


def test_the_origin_of_installed_and_of_loose_code(lab: Path) -> None:
    found: dict[str, Any] = parts.origin({"_target_": "torch.optim.AdamW"})
    assert found["package"] == "torch"
    assert found["version"][0].isdecimal()
    assert parts.origin({"_target_": "sklearn.svm.SVC"})["package"] == "scikit-learn"
    digest = hashlib.sha256(LAB.encode()).hexdigest()
    expected = {"class": "somelab.agg.Mine", "package": "somelab", "version": None, "sha256": digest}
    assert parts.origin({"_target_": "somelab.agg.Mine"}) == expected


def test_a_folder_is_importable_here_and_in_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", ["/first"])
    monkeypatch.setenv("PYTHONPATH", "/own")
    for _ in range(2):
        parts.make_importable(tmp_path)
    assert sys.path == ["/first", str(tmp_path)]
    assert os.environ["PYTHONPATH"] == os.pathsep.join(["/own", str(tmp_path)])
