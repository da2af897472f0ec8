from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lungtl import cache
from lungtl.data.cache_folder import CacheFolder
from lungtl.settings.errors import UsageError
from tests.data.test_cache_folder import LAYOUT, names, store

ADDRESS = {
    "store_name": "lidc-0123", "backbone": "resnet18.a1_in1k", "features": "stages", "blocks": 4, "whole": False,
    "views": 8, "precision": "float16", "weights": "abcdef0123456789", "preprocessing": {"size": 96, "crop_mm": [16.0]},
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> CacheFolder:
    """Three entries of 4 kB, `a` the least recently used."""
    folder = CacheFolder(tmp_path)
    for name, age in (("a", 300), ("b", 200), ("c", 100)):
        store(folder, name, age)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    monkeypatch.setattr(sys, "argv", ["cache", *arguments])
    cache.main()


def test_entries_are_listed_with_their_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = CacheFolder(tmp_path)
    store(folder, "0123456789abcdef")
    with folder.locked("fedcba9876543210"):
        folder.reserve("fedcba9876543210", LAYOUT, 1)
        folder.publish("fedcba9876543210", ADDRESS)
    run(monkeypatch, f"data_dir={tmp_path}")
    out = capsys.readouterr().out
    assert out.count("01234567") == 1
    assert max(map(len, out.splitlines()[1:])) <= 80
    shown = out[out.index("fedcba98") :].splitlines()
    assert "0.0 MB" in shown[0]
    assert "lidc-0123" in shown[0]
    details = "resnet18.a1_in1k, weights abcdef01, 4 blocks, stages, 16 mm, 96 px, 8 views, float16"
    assert " ".join(line.strip() for line in shown[1:3]) == details
    assert names(folder) == ["0123456789abcdef", "fedcba9876543210"]  # listing removes nothing


def test_an_empty_cache_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, f"data_dir={tmp_path}")
    assert capsys.readouterr().out == f"no entries in {tmp_path}/cache/features\n"
    assert not (tmp_path / "cache").exists()


def test_pruning_removes_the_least_recently_used(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run(monkeypatch, f"data_dir={tmp_path}", f"max_gb={2.5 * LAYOUT.size / 1e9:.9f}")
    assert names(folder) == ["b", "c"]
    assert "removed 1 of 3 entries" in capsys.readouterr().out
    run(monkeypatch, f"data_dir={tmp_path}", "prune=all")
    assert names(folder) == []
    assert "removed 2 of 2 entries" in capsys.readouterr().out


def test_nothing_outside_the_cache_is_touched(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = [tmp_path / "stores" / "x" / "features.npy", tmp_path / "cache" / "other.npy", tmp_path / "runs.partial"]
    for other in others:
        other.parent.mkdir(parents=True, exist_ok=True)
        other.write_text("mine")
    run(monkeypatch, f"data_dir={tmp_path}", "prune=all")
    assert names(folder) == []
    assert [other.read_text() for other in others] == ["mine"] * 3


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("prune=none", "prune=none: expected prune=all"),
        ("max_gb=lots", "max_gb=lots: expected a number of GB"),
        ("max_gb=-1", "max_gb=-1: expected a number of GB"),
        ("max_gb=nan", "max_gb=nan: expected a number of GB"),
        ("prune", "unknown argument prune; expected data_dir=FOLDER, prune=all or max_gb=NUMBER"),
        ("gb=3", "unknown argument gb=3"),
    ],
)
def test_wrong_arguments_remove_nothing(
    folder: CacheFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, argument: str, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run(monkeypatch, f"data_dir={tmp_path}", argument)
    assert names(folder) == ["a", "b", "c"]
