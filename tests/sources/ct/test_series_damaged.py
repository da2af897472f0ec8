"""Damaged files in a series, and folders without one."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError
from lungtl.sources.ct.series import find_series
from tests.dicom_files import UID, truncate, write_series
from tests.sources.ct.found import OTHER, Z, reasons

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")  # our values are bad on purpose


def test_file_that_is_not_dicom(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "page.dcm").write_text("<html>502 Bad Gateway</html>" * 10)
    assert reasons(tmp_path) == {"bad/page.dcm": "not a DICOM file (280 bytes)"}


def test_header_cut_short(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z)[1]
    truncate(path, path.read_bytes().index(b"\x28\x00\x53\x10"))  # at RescaleSlope
    assert reasons(tmp_path) == {UID: "slice-001.dcm has no RescaleSlope"}


def flip(marker: bytes, by: bytes) -> Callable[[Path], None]:
    def damage(path: Path) -> None:
        content = path.read_bytes()
        assert content.count(marker) == 1
        path.write_bytes(content.replace(marker, by))

    return damage


@pytest.mark.parametrize(
    ("damage", "item", "reason"),
    [
        (
            flip(b"\x20\x00\x0e\x00UI", b"\x20\x00\x0e\x00U\x1c"),
            "bad/slice-001.dcm",
            "has an invalid SeriesInstanceUID",
        ),
        (
            flip(b"\x28\x00\x10\x00US\x02\x00", b"\x28\x00\x10\x00US\x01\x00"),
            UID,
            "slice-001.dcm has no PixelSpacing, Columns, RescaleSlope, RescaleIntercept, BitsAllocated, BitsStored, "
            "HighBit, PixelRepresentation",  # the rest is out of step
        ),
        (
            flip(b"\x02\x00\x00\x00UL\x04\x00", b"\x02\x00\x00\x00UL\x05\x00"),
            "bad/slice-001.dcm",
            "invalid DICOM header (BytesLengthException)",
        ),
    ],
)
def test_flipped_bytes(tmp_path: Path, damage: Callable[[Path], None], item: str, reason: str) -> None:
    damage(write_series(tmp_path / "bad", Z[:3])[1])
    series, refusals = find_series(tmp_path)
    assert {r.item: r.reason for r in refusals} == {item: reason}
    assert len(series) == (item != UID)  # a file of unknown series is refused on its own


def test_random_damage_never_stops_the_rest(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z)[1]
    write_series(tmp_path / "good", Z, uid=OTHER)
    whole = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = whole.copy()
        damaged[rng.integers(132, len(whole), 5)] = rng.integers(0, 256, 5)
        path.write_bytes(damaged.tobytes())
        assert OTHER in {series.uid for series in find_series(tmp_path)[0]}


def test_unreadable_file(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z[:2])[0]
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user reads everything")
    assert reasons(tmp_path)["bad/slice-000.dcm"] == "cannot be read (Permission denied)"


def test_file_that_the_system_refuses_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "bad", Z[:2])
    real = Path.open

    def closed(path: Path, *mode: Any) -> Any:
        if "bad" in path.parts:
            raise PermissionError(13, "Permission denied")
        return real(path, *mode)

    monkeypatch.setattr(Path, "open", closed)
    assert set(reasons(tmp_path).values()) == {"cannot be read (Permission denied)"}


def test_folder_that_the_system_refuses_to_list(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_series(tmp_path / "bad", Z)
    real = os.scandir

    def scandir(path: str) -> Any:
        if str(path).endswith("bad"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert reasons(tmp_path) == {"bad": "cannot be read (Permission denied)"}


# Nothing at all


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"gone is not a folder; set "):
        find_series(tmp_path / "gone")


def test_file_instead_of_folder(tmp_path: Path) -> None:
    path = write_series(tmp_path, Z)[0]
    with pytest.raises(LungtlError, match="is not a folder"):
        find_series(path)


def test_folder_without_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("none here")
    with pytest.raises(LungtlError, match=f"no DICOM file in {tmp_path}"):
        find_series(tmp_path)
