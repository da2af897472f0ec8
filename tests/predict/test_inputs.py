"""Folders, zip files and single files as input."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from lungtl.predict.inputs import find_input
from lungtl.settings.errors import LungtlError
from lungtl.sources.ct.volume import read_volume
from tests.predict.lab import Z, series


def pack(archive: Path, folder: Path, prefix: str = "") -> Path:
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        for path in sorted(folder.rglob("*.dcm")):
            packed.write(path, prefix + str(path.relative_to(folder)))
    return archive


def test_a_zip_file_gives_the_series_of_its_folder(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans" / "study" / "one")
    archive = pack(tmp_path / "scans.zip", tmp_path / "scans")
    (scratch := tmp_path / "scratch").mkdir()
    with find_input(tmp_path / "scans", scratch, 2, False) as plain, find_input(archive, scratch, 2, False) as found:
        assert found.series[0].fingerprint == plain.series[0].fingerprint
        assert found.paths == {uid: "scans.zip/study/one"}
        assert Path(found.series[0].files[0].path).is_file()
    assert list(scratch.iterdir()) == []


@pytest.mark.parametrize("prefix", ["../../escaped/", "/tmp/lungtl-escaped/", "..\\..\\escaped\\"])
def test_no_member_leaves_the_scratch_folder(tmp_path: Path, prefix: str) -> None:
    series(tmp_path / "scans")
    archive = pack(tmp_path / "x.zip", tmp_path / "scans", prefix)
    (scratch := tmp_path / "a" / "b").mkdir(parents=True)
    before = set(tmp_path.rglob("*"))
    with find_input(archive, scratch, 2, False) as found:
        assert len(found.series[0].files) == len(Z)
        new = set(tmp_path.rglob("*")) - before
        assert all(path.is_relative_to(scratch) for path in new)
        assert ".." not in found.paths[found.series[0].uid]
    assert not Path("/tmp/lungtl-escaped").exists()


def test_volume_files_of_a_zip_file_keep_their_ids(tmp_path: Path) -> None:
    """Also with the values in a file of their own, and next to names that differ in case or in odd characters alone."""
    image = sitk.GetImageFromArray(np.full((4, 8, 8), -800, np.int16))
    for name in ("a/scan-7.mhd", "b/Case 2.mha", "b/x;y.mha"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        sitk.WriteImage(image, str(tmp_path / name))
    with zipfile.ZipFile(archive := tmp_path / "x.zip", "w") as packed:
        for path in sorted(tmp_path.glob("[ab]/*")):
            packed.write(path, path.relative_to(tmp_path))
        packed.write(tmp_path / "b" / "x;y.mha", "b/x:y.mha")
    (scratch := tmp_path / "s").mkdir()
    with find_input(archive, scratch, 2, False) as found:
        assert [one.uid for one in found.series] == ["Case 2", "scan-7"]
        assert found.paths["scan-7"] == "x.zip/a"
        assert read_volume(found.series[1]).hu.max() == -800
        assert sorted(one.item for one in found.refusals) == ["b/x:y.mha", "b/x;y.mha"]  # one id for two


def test_links_and_damaged_members_are_refused(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    archive = pack(tmp_path / "x.zip", tmp_path / "scans")
    with zipfile.ZipFile(archive, "a") as packed:
        link = zipfile.ZipInfo("link.dcm")
        link.external_attr = 0o120777 << 16
        packed.writestr(link, "/etc/passwd")
        packed.writestr("bad.dcm", b"0123456789" * 5)
        offset = packed.getinfo("bad.dcm").header_offset
    content = bytearray(archive.read_bytes())
    content[offset + 30 + len("bad.dcm") + 3] ^= 0xFF
    archive.write_bytes(content)
    with find_input(archive, tmp_path, 2, False) as found:
        reasons = {refusal.item: refusal.reason for refusal in found.refusals}
        assert len(found.series) == 1
    assert reasons["link.dcm"] == "a link in a zip file"
    assert reasons["bad.dcm"] == "is damaged (BadZipFile) in the zip file"


def test_a_zip_file_that_would_fill_the_disk(tmp_path: Path) -> None:
    archive = tmp_path / "bomb.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("zeros.dcm", bytes(20_000_000))
    assert archive.stat().st_size < 50_000
    with pytest.raises(LungtlError, match=r"unpacks to 0\.0 GB, the limit is 0\.01 GB; .*max_gb="):
        find_input(archive, tmp_path, 0.01, False).__enter__()
    assert not (tmp_path / ".unpacked" / "zeros.dcm").exists()


def test_a_file_stands_for_its_series(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans", 0)
    series(tmp_path / "scans" / "other", 1)
    with find_input(tmp_path / "scans" / "slice-003.dcm", tmp_path, 2, False) as found:
        assert [one.uid for one in found.series] == [uid]
        assert len(found.series[0].files) == len(Z)


def test_a_file_that_is_no_dicom(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no CT")
    with pytest.raises(LungtlError, match="not a DICOM file"):
        find_input(tmp_path / "notes.txt", tmp_path, 2, False).__enter__()
    (tmp_path / "x.nii.gz").write_bytes(b"nifti")
    with find_input(tmp_path / "x.nii.gz", tmp_path, 2, False) as found:
        assert (found.series, [one.item for one in found.refusals]) == ((), ["x.nii.gz"])
    with pytest.raises(LungtlError, match="input="):
        find_input(tmp_path / "absent", tmp_path, 2, False).__enter__()
