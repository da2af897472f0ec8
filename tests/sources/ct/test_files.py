"""Which files below a folder are read, passed over or refused."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import ExplicitVRBigEndian, ImplicitVRLittleEndian, MediaStorageDirectoryStorage

from lungtl.predict.__main__ import NO_ACTION
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import Refusal
from lungtl.sources.ct.series import find_series
from lungtl.sources.ct.volume import read_volume
from lungtl.sources.files import listing_hash, printable, walk
from tests.dicom_files import UID, ramp, remove_preamble, truncate, write_series
from tests.sources.ct.encodings import reencode
from tests.sources.ct.found import Z, only, reasons


def test_empty_files(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    for name in ("zero.dcm", "ZERO.IMA", "zero"):
        (tmp_path / "bad" / name).touch()
    assert reasons(tmp_path) == {
        "bad/zero.dcm": "empty file (0 bytes)",
        "bad/ZERO.IMA": "empty file (0 bytes)",
        "bad/zero": "empty file (0 bytes)",
    }


@pytest.mark.parametrize("syntax", [None, ImplicitVRLittleEndian, ExplicitVRBigEndian])
@pytest.mark.parametrize("suffix", ["", ".dcm"])
def test_no_preamble(tmp_path: Path, syntax: str | None, suffix: str) -> None:
    for path in write_series(tmp_path, Z, names=[f"IM{k}{suffix}" for k in range(4)])[1:]:
        if syntax is not None:
            reencode(path, syntax)
        remove_preamble(path)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_no_preamble_but_meta_information(tmp_path: Path) -> None:
    for path in write_series(tmp_path, Z, names=["a", "b", "c", "d"], rle=True):
        remove_preamble(path, meta=False)
    assert np.array_equal(read_volume(only(tmp_path)).hu, ramp(4) - 1024)


def test_no_preamble_and_damaged(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z, names=["a", "b", "c", "d"])[1]
    remove_preamble(path)
    truncate(path, -6)
    assert reasons(tmp_path) == {UID: "b is truncated: 18 of 24 bytes of PixelData"}


def test_damaged_preamble(tmp_path: Path) -> None:
    path = write_series(tmp_path / "bad", Z[:1], names=["IM0"])[0]
    path.write_bytes(path.read_bytes().replace(b"DICM", b"DI?M", 1))
    assert reasons(tmp_path) == {"bad/IM0": "has a damaged preamble"}


@pytest.mark.parametrize(
    ("name", "reason", "remedy"),
    [
        ("scan.nrrd", "an NRRD volume, which is not read", "save it as .nii.gz or .mha, or use its DICOM series"),
        ("study.zip", "a .zip archive, which is not read", "unpack it"),
        ("a.dcm.gz", "a .gz archive, which is not read", "unpack it"),
    ],
)
def test_other_formats(tmp_path: Path, name: str, reason: str, remedy: str) -> None:
    (tmp_path / name).write_bytes(b"PK\3\4" + bytes(200))
    series, (refusal,) = find_series(tmp_path)
    assert (series, refusal.item, refusal.reason) == ([], name, reason)
    assert refusal.remedy.startswith(remedy)
    with pytest.raises(LungtlError, match=f"input=.*{name} is {reason}; {remedy}.*; or set input to the folder"):
        find_series(tmp_path / name, "input")  # instead of a folder


def test_folder_of_pictures(tmp_path: Path) -> None:
    for name in ("1.png", "2.png", "labels.csv"):
        (tmp_path / name).write_bytes(b"\x89PNG" + bytes(200))
    with pytest.raises(LungtlError, match=r"no DICOM file in .* \(3 files, most are \.png\); set dataset\.root"):
        find_series(tmp_path)


def test_dicomdir_is_skipped(tmp_path: Path) -> None:
    write_series(tmp_path, Z)
    dataset = pydicom.dcmread(tmp_path / "slice-000.dcm")
    dataset.file_meta.MediaStorageSOPClassUID = MediaStorageDirectoryStorage
    dataset.save_as(tmp_path / "DICOMDIR")
    assert len(only(tmp_path).files) == 4


def test_pipe(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    os.mkfifo(tmp_path / "bad" / "pipe.dcm")  # to open it would wait for ever
    assert reasons(tmp_path) == {"bad/pipe.dcm": "not a regular file"}


def test_links_are_followed_and_each_folder_read_once(tmp_path: Path) -> None:
    paths = write_series(tmp_path / "elsewhere" / "a", Z[:3])
    (other,) = write_series(tmp_path / "b", Z[3:], ramp(4)[3:], names=["last.dcm"], edit=lambda _, d: rename(d))
    root = tmp_path / "root"
    root.mkdir()
    (root / "one").symlink_to(paths[0].parent, target_is_directory=True)
    (root / "two").symlink_to(paths[0].parent, target_is_directory=True)
    (root / "up").symlink_to(root, target_is_directory=True)
    (paths[0].parent / "back").symlink_to(root, target_is_directory=True)
    (root / "last").symlink_to(other)
    series, refusals = find_series(root, follow_links=True)
    assert refusals == []
    assert np.array_equal(read_volume(series[0]).hu, ramp(4) - 1024)


def test_links_out_of_the_folder_are_refused(tmp_path: Path) -> None:
    """They may lead to /proc, or to the user's own scans."""
    paths = write_series(tmp_path / "elsewhere" / "a", Z)
    root = tmp_path / "root"
    write_series(root / "own", Z)
    (root / "proc").symlink_to("/proc", target_is_directory=True)
    (root / "scans").symlink_to(paths[0].parent, target_is_directory=True)
    (root / "slice").symlink_to(paths[0])
    (root / "inside").symlink_to(root / "own", target_is_directory=True)
    (root / "own" / "up").symlink_to("..", target_is_directory=True)
    series, refusals = find_series(root)
    assert {refusal.item: refusal.reason for refusal in refusals} == dict.fromkeys(
        ("proc", "scans", "slice"), "a link out of the folder"
    )
    assert all(refusal.remedy.startswith(NO_ACTION) for refusal in refusals)  # lungtl predict exits with 0
    assert len(series[0].files) == len(Z)
    linked = tmp_path / "linked"
    linked.symlink_to(root / "own", target_is_directory=True)  # the folder itself may be a link
    assert find_series(linked)[1] == [Refusal("up", "a link out of the folder", refusals[0].remedy)]


def rename(dataset: pydicom.FileDataset) -> None:
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(f"{UID}.7")


def test_broken_links(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "nowhere.dcm").symlink_to(tmp_path / "gone")
    (tmp_path / "bad" / "itself").symlink_to(tmp_path / "bad" / "itself")
    assert reasons(tmp_path) == {
        "bad/nowhere.dcm": "broken link (No such file or directory)",
        "bad/itself": "broken link (Too many levels of symbolic links)",
    }


def test_undecodable_names(tmp_path: Path) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / os.fsdecode(b"a\n\xff.dcm")).write_text("no DICOM")
    found = reasons(tmp_path)
    assert found == {r"bad/a\n\udcff.dcm": "not a DICOM file (8 bytes)"}
    assert next(iter(found)).encode("utf-8")


def test_printable_keeps_letters_of_all_languages() -> None:
    assert printable("Ströme 日本.dcm") == "Ströme 日本.dcm"
    assert printable("a\x1b[31m\r") == r"a\x1b[31m\r"


def test_file_cut_before_its_series_uid(tmp_path: Path) -> None:
    path = write_series(tmp_path, Z, names=["bad/0", "1", "2", "3"])[0]
    truncate(path, path.read_bytes().index(b"\x20\x00\x0e\x00UI"))
    series, (refusal,) = find_series(tmp_path)
    assert [len(s.files) for s in series] == [3]
    assert (refusal.item, refusal.reason) == ("(no SeriesInstanceUID)", "1 file has no SeriesInstanceUID")


def test_invalid_uid(tmp_path: Path) -> None:
    write_series(tmp_path / "bad", Z[:1])
    path = tmp_path / "bad" / "slice-000.dcm"
    path.write_bytes(path.read_bytes().replace(UID.encode(), b"DOE^JOHN".ljust(len(UID))))
    assert reasons(tmp_path) == {"bad/slice-000.dcm": "has an invalid SeriesInstanceUID"}


def test_a_data_folder_of_lungtl_is_no_input(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.dcm").touch()
    before = listing_hash([tmp_path])
    (tmp_path / "own" / "stores" / ".known").mkdir(parents=True)
    (tmp_path / "own" / "runs").mkdir()
    (tmp_path / "own" / "runs" / "config.yaml").touch()
    assert [path.name for path in walk(tmp_path)[0]] == ["a.dcm"]
    assert listing_hash([tmp_path]) == before
    assert [path.name for path in walk(tmp_path / "own" / "runs")[0]] == ["config.yaml"]
