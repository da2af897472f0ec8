"""LIDC scans: tiny series under a real scan's UID and positions.

Labels are written out by hand. LIDC-IDRI-0709 has 100 slices, 3 mm apart, z = 1347..1644, and six nodules:

    ratings     contours at z   widened by 1.5 mm   1 mm slices
    1           1524..1527      1522.5..1528.5      1523..1528 benign
    5 5 4 4     1539..1572      1537.5..1573.5      1538..1573 malignant
    3 2         1560..1575      1558.5..1576.5      1559..1576 benign, of which 1574..1576 are left
    1 1         1590..1596      1588.5..1597.5      1589..1597 benign
    1 1 1 1     1614..1620      1612.5..1621.5      1613..1621 benign
    1           1623..1626      1621.5..1627.5      1622..1627 benign
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused, UsageError
from lungtl.sources.base import Bag, fingerprint
from lungtl.sources.lidc import LidcSource
from lungtl.sources.lidc_database import read_scans
from tests.dicom_files import UID, ramp, write_series

sitk: Any = SimpleITK
UID_0709 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.309707676674808510671394142910"
UID_0382 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.242008481133355578039985255654"
UID_0063 = "1.3.6.1.4.1.14519.5.2.1.6279.6001.272190966764020277652079081128"
Z_0709 = np.arange(1347.0, 1645.0, 3.0)
BENIGN_0709 = [*range(1523, 1529), *range(1574, 1577), *range(1589, 1598), *range(1613, 1628)]
MALIGNANT_0709 = [*range(1538, 1574)]


def write_0709(root: Path, z_mm: NDArray[np.float64] = Z_0709) -> Path:
    write_series(root / "LIDC-IDRI-0709", z_mm, ramp(len(z_mm), 2, 2), uid=UID_0709)
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The whole scan, for tests that only read it."""
    return write_0709(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="module")
def bag(whole: Path) -> Bag:
    return load(whole)


def load(root: Path, **options: Any) -> Bag:
    source = LidcSource(str(root), **options)
    (item,) = source.inventory().items
    return source.load(item)


def refused(root: Path, **options: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        load(root, **options)
    return caught.value


def z_of(bag: Bag, label: int) -> list[float]:
    return [float(z) for z in bag.z_mm[bag.slice_labels == label]]


# A whole scan


def test_the_database_has_the_positions_above() -> None:
    (scan,) = read_scans([UID_0709])
    assert scan.z_mm.tolist() == Z_0709.tolist()


def test_slice_labels(bag: Bag) -> None:
    assert bag.z_mm.tolist() == [*range(1347, 1645)]
    assert z_of(bag, 1) == BENIGN_0709
    assert z_of(bag, 2) == MALIGNANT_0709
    assert len(z_of(bag, 0)) == 298 - len(BENIGN_0709) - len(MALIGNANT_0709)


def test_bag(bag: Bag) -> None:
    assert (bag.bag_id, bag.patient_id, bag.bag_label, bag.split) == (UID_0709, "LIDC-IDRI-0709", 1, None)
    assert bag.pixel_spacing_mm == (0.75, 0.75)  # of the files, not of the database
    assert bag.details == {
        "scan_id": 946,
        "n_native_slices": 100,
        "native_spacing_mm": 3.0,
        "largest_gap_mm": 3.0,
        "slice_thickness_mm": 2.5,
        "manufacturer": "other",  # the files name none of the known ones
        "kernel": "",
        "contrast": "",
        "lungs_cm2": 0.0,
        "crop_top": 0,
        "crop_left": 0,
        "rescale_type": "",
        "hu_lowest": bag.voxels.min(),
        "hu_median": pytest.approx(np.median(bag.voxels), abs=150),
        "hu_high": pytest.approx(np.percentile(bag.voxels, 95), abs=150),
    }


def test_nodules(bag: Bag) -> None:
    rows = bag.nodules
    seen = [
        (r["nodule"], r["ratings"], r["malignancy"], r["n_readers"], r["malignant"], r["z_min"], r["z_max"])
        for r in rows
    ]
    assert seen == [
        (0, "1", 1.0, 1, False, 1524, 1527),
        (1, "5 5 4 4", 4.5, 4, True, 1539, 1572),
        (2, "3 2", 2.5, 2, False, 1560, 1575),
        (3, "1 1", 1.0, 2, False, 1590, 1596),
        (4, "1 1 1 1", 1.0, 4, False, 1614, 1620),
        (5, "1", 1.0, 1, False, 1623, 1626),
    ]


def test_diameter_is_the_largest_nodules(bag: Bag) -> None:
    assert bag.diameter_mm == max(row["diameter_mm"] for row in bag.nodules) == bag.nodules[1]["diameter_mm"]


def test_voxels_are_interpolated_hu(bag: Bag) -> None:
    # stored 0, 7, 14, 21 on the first slice, 28 more on the next, three slices up
    assert bag.voxels[:4, 0, 0].tolist() == [-1024, -1015, -1005, -996]
    assert bag.voxels[3].ravel().tolist() == [-996, -989, -982, -975]


@pytest.mark.parametrize(
    ("options", "malignant"),
    [
        ({"threshold": 2.5}, [*range(1538, 1577)]),  # reaches the nodule rated 3 2
        ({"threshold": 4.6}, []),
        ({"rule": "max"}, [*range(1538, 1577)]),
        ({"rule": "median", "threshold": 4.5}, [*range(1538, 1574)]),
        ({"rule": "max", "threshold": 5}, [*range(1538, 1574)]),
        ({"threshold": 1}, [*range(1523, 1529), *range(1538, 1577), *range(1589, 1598), *range(1613, 1628)]),
    ],
)
def test_rule_and_threshold(whole: Path, options: dict[str, Any], malignant: list[int]) -> None:
    bag = load(whole, **options)
    assert z_of(bag, 2) == malignant
    assert bag.bag_label == (1 if malignant else 0)


def test_scan_without_nodules(tmp_path: Path) -> None:
    (scan,) = read_scans([UID_0382])
    write_series(tmp_path, scan.z_mm, ramp(len(scan.z_mm), 1, 1), uid=scan.series_uid)
    bag = load(tmp_path)
    assert (bag.patient_id, bag.bag_label, bag.diameter_mm, bag.nodules) == ("LIDC-IDRI-0382", 0, 0.0, ())
    assert set(bag.slice_labels.tolist()) == {0}


# Excluded nodules


def test_a_nodule_of_too_few_readers_leaves_its_own_slices_unknown(whole: Path) -> None:
    bag = load(whole, min_readers=2)
    # the first and the last nodule have one reader
    assert z_of(bag, -1) == [*range(1523, 1529), *range(1622, 1628)]
    assert z_of(bag, 1) == [*range(1574, 1577), *range(1589, 1598), *range(1613, 1622)]
    assert z_of(bag, 2) == MALIGNANT_0709
    assert [row["counted"] for row in bag.nodules] == [False, True, True, True, True, False]
    assert bag.bag_label == 1


def test_an_indeterminate_nodule_is_malignant_or_excluded(whole: Path) -> None:
    kept, excluded = (load(whole, threshold=4.5, indeterminate=choice) for choice in ("keep", "exclude"))
    assert (kept.bag_label, z_of(kept, 2), z_of(kept, -1)) == (1, MALIGNANT_0709, [])
    # 1559..1573 belong to the benign nodule too
    assert (excluded.bag_label, z_of(excluded, 2), z_of(excluded, -1)) == (-1, [], [*range(1538, 1559)])
    assert [row["malignant"] for row in excluded.nodules] == [False] * 6
    assert [row["counted"] for row in excluded.nodules] == [True, False, True, True, True, True]
    # the largest nodule is the one that does not count
    assert excluded.diameter_mm == max(row["diameter_mm"] for row in excluded.nodules if row["counted"])
    assert excluded.diameter_mm < kept.diameter_mm


def test_a_scan_with_only_excluded_nodules(tmp_path: Path) -> None:
    bag = load(write_0709(tmp_path, Z_0709[:62]), allow_partial=True, min_readers=2)  # the first nodule, rated 1
    assert (bag.bag_label, bag.diameter_mm) == (0, 0.0)
    assert (z_of(bag, -1), z_of(bag, 1)) == ([*range(1523, 1529)], [])


# Part of a scan


def test_partial_series_is_refused_with_its_count(tmp_path: Path) -> None:
    error = refused(write_0709(tmp_path, Z_0709[:62]))
    assert error.reason == "only 62 of the 100 slices in LIDC-IDRI"
    assert "dataset.allow_partial=true" in error.remedy


def test_partial_series_labels_only_what_it_covers(tmp_path: Path) -> None:
    bag = load(write_0709(tmp_path, Z_0709[:62]), allow_partial=True)  # up to 1530
    assert bag.z_mm[-1] == 1530
    assert z_of(bag, 1) == [*range(1523, 1529)]
    assert [row["nodule"] for row in bag.nodules] == [0]
    assert bag.bag_label == 0
    assert bag.diameter_mm == bag.nodules[0]["diameter_mm"]


def test_partial_series_that_cuts_a_nodule(tmp_path: Path) -> None:
    bag = load(write_0709(tmp_path, Z_0709[70:80]), allow_partial=True)  # 1557..1584
    assert z_of(bag, 2) == [*range(1557, 1574)]
    assert z_of(bag, 1) == [1574, 1575, 1576]
    assert [row["nodule"] for row in bag.nodules] == [1, 2]


def test_a_missing_slice_in_the_middle_is_partial_too(tmp_path: Path) -> None:
    assert refused(write_0709(tmp_path, np.delete(Z_0709, 50))).reason.startswith("only 99 of the 100 slices")


# Refused


def test_position_that_lidc_does_not_have(tmp_path: Path) -> None:
    z = Z_0709.copy()
    z[7] += 0.5
    assert refused(write_0709(tmp_path, z)).reason == "slice at z = 1368.5 mm is not in LIDC-IDRI"


def test_shifted_scan(tmp_path: Path) -> None:
    assert "is not in LIDC-IDRI" in refused(write_0709(tmp_path, Z_0709 + 1), allow_partial=True).reason


def test_gap(tmp_path: Path) -> None:
    root = write_0709(tmp_path, np.delete(Z_0709, [50, 51, 52]))
    error = refused(root, allow_partial=True)
    assert error.reason == "a gap of 12 mm between slices"
    assert "dataset.max_gap_mm=12" in error.remedy
    assert load(root, allow_partial=True, max_gap_mm=12).z_mm[-1] == 1644


def test_other_series(tmp_path: Path) -> None:
    write_series(tmp_path / "mine", [0, 1, 2])
    write_series(tmp_path / "one", [5], uid=f"{UID}.5")
    source = LidcSource(str(write_0709(tmp_path)))
    inventory = source.inventory()
    assert [item.bag_id for item in inventory.items] == [UID_0709]
    assert {r.item: r.reason for r in inventory.refusals} == {
        UID: "not a series of LIDC-IDRI",
        f"{UID}.5": "only one slice, so its spacing is unknown",
    }
    assert "dataset=dicom" in next(r.remedy for r in inventory.refusals if r.item == UID)
    assert source.load(inventory.items[0]).bag_label == 1


@pytest.mark.parametrize("step", ["listing", "inventory"])
def test_missing_root(tmp_path: Path, step: str) -> None:
    with pytest.raises(LungtlError, match="is not a folder; set "):
        getattr(LidcSource(str(tmp_path / "gone")), step)()


def test_no_root_is_a_usage_error() -> None:
    for step in (LidcSource().listing, LidcSource().inventory):
        with pytest.raises(UsageError, match=r"dataset\.root is missing; give dataset\.root=FOLDER"):
            step()


# As a source


def test_source_and_items_are_picklable(whole: Path) -> None:
    source = LidcSource(str(whole))
    (item,) = source.inventory().items
    there, thing = pickle.loads(pickle.dumps((source, item)))  # noqa: S301
    assert np.array_equal(there.load(thing).slice_labels, source.load(item).slice_labels)


def test_listing_sees_changes_and_is_stable(tmp_path: Path) -> None:
    source = LidcSource(str(write_0709(tmp_path)))
    before = source.listing()
    assert source.listing() == before
    (tmp_path / "LIDC-IDRI-0709" / "slice-000.dcm").unlink()
    assert source.listing() != before


def test_every_option_but_the_folder_is_in_the_recipe() -> None:
    plain = LidcSource("a").recipe()
    assert LidcSource("b").recipe() == plain
    whole = LidcSource("a", threshold=3).recipe()
    assert fingerprint(whole) == fingerprint(plain)  # 3 and 3.0 are one store
    changed = [
        {"rule": "max"},
        {"threshold": 2.0},
        {"indeterminate": "exclude"},
        {"min_readers": 2},
        {"allow_partial": True},
        {"max_gap_mm": 9.0},
    ]
    assert all(LidcSource("a", **options).recipe() != plain for options in changed)  # type: ignore[arg-type]
