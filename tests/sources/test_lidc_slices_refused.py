"""Folders and files of LIDC-IDRI-slices that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources.lidc_slices import LidcSlicesSource
from tests.sources.kaggle import bags, four_nodules, refusals, two_patients, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return two_patients(tmp_path)


@pytest.fixture
def patient_0063(tmp_path: Path) -> Path:
    return four_nodules(tmp_path)


# Refusals


def test_a_patient_with_two_scans_is_ambiguous(root: Path) -> None:
    write(root / "LIDC-IDRI-0132" / "nodule-1", 0)
    write(root / "LIDC-IDRI-0132" / "nodule-3", 0)
    reason = refusals(LidcSlicesSource(str(root)))["LIDC-IDRI-0132"]
    assert "2 scans" in reason
    assert "2 nodule folders" in reason


def test_a_patient_that_lidc_does_not_have(root: Path) -> None:
    write(root / "LIDC-IDRI-4711" / "nodule-0", 0)
    assert "has 0 scans" in refusals(LidcSlicesSource(str(root)))["LIDC-IDRI-4711"]


@pytest.mark.parametrize("name", ["nodule-77", "nodule-x", "nodule-01"])
def test_a_nodule_that_the_annotations_do_not_have(root: Path, name: str) -> None:
    write(root / "LIDC-IDRI-0003" / name, 0)
    source = LidcSlicesSource(str(root))
    assert f"{name} is not in the LIDC annotations" in refusals(source)[f"LIDC-IDRI-0003/{name}"]
    assert len(bags(source)) == 2


def test_a_nodule_folder_without_png(root: Path) -> None:
    for file in (root / "LIDC-IDRI-0003" / "nodule-1" / "images").iterdir():
        file.unlink()
    source = LidcSlicesSource(str(root))
    assert refusals(source) == {"LIDC-IDRI-0003/nodule-1": "no PNG in its images folder"}
    assert list(bags(source)) == ["LIDC-IDRI-0012_nodule-1"]


@pytest.mark.parametrize("name", ["slice-one.png", "slice-01.png"])
def test_a_png_without_a_unique_number(root: Path, name: str) -> None:
    images = root / "LIDC-IDRI-0012" / "nodule-1" / "images"
    (images / name).write_bytes((images / "slice-1.png").read_bytes())
    assert "has an unexpected name" in refusals(LidcSlicesSource(str(root)))["LIDC-IDRI-0012/nodule-1"]


def test_files_of_macos_are_ignored(root: Path) -> None:
    (root / "LIDC-IDRI-0012" / "nodule-1" / "images" / "._slice-0.png").write_bytes(b"AppleDouble")
    (root / "LIDC-IDRI-0012" / ".DS_Store").write_bytes(b"")
    assert len(bags(LidcSlicesSource(str(root)))["LIDC-IDRI-0012_nodule-1"].voxels) == 2


@pytest.mark.parametrize("mode", ["RGB", "1", "P", "I;16", "LA"])
def test_another_png_mode(root: Path, mode: str) -> None:
    write(root / "LIDC-IDRI-0012" / "nodule-1", 1, mode=mode)
    with pytest.raises(Refused, match=rf"nodule-1/images/slice-1\.png has mode {mode}, expected L"):
        bags(LidcSlicesSource(str(root)))


@pytest.mark.parametrize("keep", [0, 8, 40, -20])
def test_a_broken_png(root: Path, keep: int) -> None:
    file = root / "LIDC-IDRI-0012" / "nodule-1" / "images" / "slice-1.png"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(Refused, match=r"slice-1\.png is not a readable PNG"):
        bags(LidcSlicesSource(str(root)))


def test_a_jpeg_called_png(root: Path) -> None:
    Image.new("L", (4, 4)).save(root / "LIDC-IDRI-0012" / "nodule-1" / "images" / "slice-1.png", format="JPEG")
    with pytest.raises(Refused, match="is not a readable PNG"):
        bags(LidcSlicesSource(str(root)))


def test_two_sizes_in_one_bag(root: Path) -> None:
    write(root / "LIDC-IDRI-0012" / "nodule-1", 2, size=(4, 6))
    with pytest.raises(Refused, match=r"slices have 4 x 4 and 4 x 6 pixels"):
        bags(LidcSlicesSource(str(root)))


# The root


def test_the_root_may_be_the_dataset_or_a_folder_above(root: Path) -> None:
    fingerprints = {
        LidcSlicesSource(str(path)).inventory().fingerprint for path in (root, root.parent, root.parent.parent)
    }
    assert len(fingerprints) == 1


def test_a_missing_root(tmp_path: Path) -> None:
    source = LidcSlicesSource(str(tmp_path / "nowhere"))
    for step in (source.listing, source.inventory):
        with pytest.raises(LungtlError, match=r"nowhere is not a folder.*set dataset\.root=FOLDER$"):
            step()


def test_a_root_without_png(tmp_path: Path) -> None:
    (tmp_path / "LIDC-IDRI-0003" / "01-01-2000-30178").mkdir(parents=True)  # TCIA's DICOM layout
    with pytest.raises(LungtlError, match=r"^no PNG in .*slice-I\.png; set dataset\.root=FOLDER$"):
        LidcSlicesSource(str(tmp_path)).inventory()


def test_options_that_exclude_everything(patient_0063: Path) -> None:
    with pytest.raises(LungtlError, match=r"none of 1 patients.*lower dataset\.min_readers"):
        LidcSlicesSource(str(patient_0063)).inventory()


def test_the_same_patient_twice(root: Path) -> None:
    write(root.parent / "copy" / "LIDC-IDRI-0003" / "nodule-1", 0)
    with pytest.raises(LungtlError, match="LIDC-IDRI-0003 is both in"):
        LidcSlicesSource(str(root.parent)).inventory()
