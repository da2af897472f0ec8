"""Headers read by several processes."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.sources.ct import header
from lungtl.sources.ct.series import find_series
from tests.dicom_files import UID, write_series
from tests.sources.ct.found import Z


@pytest.fixture
def heap(tmp_path: Path) -> Path:
    """Ten series, two of them bad, a broken file and one that is none."""
    for number in range(8):
        write_series(tmp_path / str(number), Z, uid=f"{UID}.{number}")
    write_series(tmp_path / "8", Z[:1], uid=f"{UID}.8")
    write_series(tmp_path / "9", Z, uid=f"{UID}.9", RescaleSlope=None)
    (tmp_path / "broken.dcm").write_text("no DICOM")
    (tmp_path / "notes.txt").write_text("no DICOM")
    return tmp_path


def test_workers_find_the_same(heap: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    alone = find_series(heap)
    assert (len(alone[0]), len(alone[1])) == (8, 3)
    assert "reading headers" not in caplog.text
    monkeypatch.setattr(header, "MANY_FILES", 10)
    monkeypatch.setattr(header, "CHUNK", 7)
    assert find_series(heap, workers=2) == alone
    assert "reading headers: 39/39" in caplog.text
    assert find_series(heap, workers=1) == alone


def test_a_worker_that_dies(heap: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(header, "MANY_FILES", 10)
    monkeypatch.setattr(header, "_read_chunk", _die)
    with pytest.raises(LungtlError, match=r"a worker process died .* while reading headers; .*workers=1"):
        find_series(heap, workers=2)


def _die(paths: list[Path]) -> None:
    import os

    os._exit(1)
