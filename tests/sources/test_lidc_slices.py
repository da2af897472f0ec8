"""LIDC-IDRI-slices: tiny PNGs in the set's layout under real patients' names, and the real set."""

from __future__ import annotations

import csv
import functools
import pickle
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources import lidc_slices
from lungtl.sources.base import Bag, Source
from lungtl.sources.density import central_density
from lungtl.sources.lidc_database import database_path
from lungtl.sources.lidc_nodules import Nodule
from lungtl.sources.lidc_slices import LidcSlicesSource
from tests.real_data import folder, lidc_nodules, lidc_scans, needs, unpack

# Readers' malignancy ratings of the nodules used here, from LIDC-IDRI itself:
# 0003: 1 = 5 5 3 4; 0012: 1 = 2 3 3 2; 0063: 0..3 = 1 | 4 3 3 | 5 4 | 3 3 3 2. 0132 has two scans.
ALL: dict[str, Any] = {"min_readers": 1, "indeterminate": "keep"}


def write(folder: Path, *numbers: int, grey: int = 0, size: tuple[int, int] = (4, 4), mode: str = "L") -> None:
    """Write slice-I.png for each number I, of the grey value `grey + I`."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    for number in numbers:
        image = Image.fromarray(np.full(size, grey + number, dtype=np.uint8)).convert(mode)
        image.save(folder / "images" / f"slice-{number}.png")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two patients with a nodule of four readers each: 0003/1 malignant, 0012/1 benign."""
    root = tmp_path / "kaggle" / "LIDC-IDRI-slices"
    write(root / "LIDC-IDRI-0003" / "nodule-1", 0, 1, 2, 10, 9)
    write(root / "LIDC-IDRI-0012" / "nodule-1", 0, 1, grey=100)
    return root


@pytest.fixture
def patient_0063(tmp_path: Path) -> Path:
    """One patient with four nodules, of one slice each, two for nodule 2."""
    for number in (0, 1, 3):
        write(tmp_path / "LIDC-IDRI-0063" / f"nodule-{number}", 0, grey=10 * number)
    write(tmp_path / "LIDC-IDRI-0063" / "nodule-2", 0, 1, grey=20)
    return tmp_path


def bags(source: Source) -> dict[str, Bag]:
    return {item.bag_id: source.load(item) for item in source.inventory().items}


def refusals(source: Source) -> dict[str, str]:
    return {refusal.item: refusal.reason for refusal in source.inventory().refusals}


# Nodule bags


def test_nodules_become_bags_with_the_readers_labels(root: Path) -> None:
    found = bags(LidcSlicesSource(str(root)))
    malignant, benign = found["LIDC-IDRI-0003_nodule-1"], found["LIDC-IDRI-0012_nodule-1"]
    assert list(found) == [malignant.bag_id, benign.bag_id]
    assert (malignant.patient_id, malignant.bag_label, set(malignant.slice_labels)) == (
        "LIDC-IDRI-0003",
        1,
        {2},
    )
    assert (benign.patient_id, benign.bag_label, set(benign.slice_labels)) == ("LIDC-IDRI-0012", 0, {1})
    assert malignant.pixel_spacing_mm == pytest.approx((0.820312, 0.820312))
    assert np.isnan(malignant.z_mm).all()
    density = central_density(benign.voxels, benign.pixel_spacing_mm, benign.diameter_mm)
    ratings = {name: value for name, value in benign.details.items() if name.startswith("rating_")}
    assert benign.details == {"n_readers": 4, "native_spacing_mm": 2.5, "density": density, **ratings}
    assert (len(ratings), ratings["rating_calcification"]) == (8, 6)  # four times absent


def test_slices_are_ordered_by_number_not_by_name(root: Path) -> None:
    bag = bags(LidcSlicesSource(str(root)))["LIDC-IDRI-0003_nodule-1"]
    assert bag.voxels[:, 0, 0].tolist() == [0, 1, 2, 9, 10]
    assert bag.voxels.dtype == np.int16


def test_grey_values_are_0_to_255_not_hu(root: Path) -> None:
    write(root / "LIDC-IDRI-0012" / "nodule-1", 2, grey=253)
    source = LidcSlicesSource(str(root))
    assert source.value_range == (0, 255)
    assert bags(source)["LIDC-IDRI-0012_nodule-1"].voxels.max() == 255


def test_the_row_of_a_nodule_explains_its_label(patient_0063: Path) -> None:
    bag = bags(LidcSlicesSource(str(patient_0063), **ALL))["LIDC-IDRI-0063_nodule-1"]
    (row,) = bag.nodules
    assert {key: row[key] for key in row if key not in ("malignancy", "diameter_mm") and "rating_" not in key} == {
        "nodule": 1, "n_readers": 3, "malignancy_median": 3.0, "ratings": "4 3 3", "z_min": -205.5,
        "z_max": -198.0, "malignant": True, "label": 2,
    }  # fmt: skip
    assert row["malignancy"] == pytest.approx(10 / 3)
    assert row["diameter_mm"] == bag.diameter_mm > 0


# Nodules that count


@pytest.mark.parametrize(
    ("options", "labels"),
    [
        (ALL, {0: 0, 1: 1, 2: 1, 3: 1}),  # medians 1, 3, 4.5, 3
        ({"min_readers": 1}, {0: 0, 2: 1}),  # 1 and 3 are exactly 3
        ({"min_readers": 2}, {2: 1}),
        ({"min_readers": 3, "indeterminate": "keep"}, {1: 1, 3: 1}),
        ({"min_readers": 1, "rule": "mean"}, {0: 0, 1: 1, 2: 1, 3: 0}),  # 1, 10/3, 4.5, 2.75
        ({"min_readers": 1, "rule": "max"}, {0: 0, 1: 1, 2: 1}),  # 1, 4, 5, 3
        ({**ALL, "threshold": 3.5}, {0: 0, 1: 0, 2: 1, 3: 0}),
    ],
)
def test_options_choose_and_label_nodules(patient_0063: Path, options: dict[str, Any], labels: dict[int, int]) -> None:
    source = LidcSlicesSource(str(patient_0063), **options)
    assert {bag.nodules[0]["nodule"]: bag.bag_label for bag in bags(source).values()} == labels
    assert refusals(source) == {}  # leaving out by choice is no refusal


# Patient bags


def test_a_patients_bag_joins_its_nodules_in_order(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), bag="patient", **ALL))
    bag = found["LIDC-IDRI-0063"]
    assert bag.voxels[:, 0, 0].tolist() == [0, 10, 20, 21, 30]
    assert bag.slice_labels.tolist() == [1, 2, 2, 2, 2]
    assert bag.bag_label == 1
    assert [row["nodule"] for row in bag.nodules] == [0, 1, 2, 3]
    assert bag.diameter_mm == max(row["diameter_mm"] for row in bag.nodules)
    assert bag.details["n_nodules"] == 4
    assert bag.details["density"] == 30  # of its densest nodule


def test_a_patient_with_only_benign_nodules_is_0(root: Path) -> None:
    found = bags(LidcSlicesSource(str(root), bag="patient"))
    assert {bag_id: bag.bag_label for bag_id, bag in found.items()} == {
        "LIDC-IDRI-0003": 1,
        "LIDC-IDRI-0012": 0,
    }


def test_a_patient_with_an_unusable_nodule_is_refused_whole(root: Path) -> None:
    (root / "LIDC-IDRI-0003" / "nodule-77").mkdir()
    source = LidcSlicesSource(str(root), bag="patient")
    assert list(bags(source)) == ["LIDC-IDRI-0012"]
    assert "LIDC-IDRI-0003/nodule-77" in refusals(source)["LIDC-IDRI-0003"]


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


# The contract


def test_a_changed_pixel_changes_one_items_fingerprint(root: Path) -> None:
    source = LidcSlicesSource(str(root))
    before, listed = source.inventory(), source.listing()
    write(root / "LIDC-IDRI-0012" / "nodule-1", 1, grey=7)
    after = source.inventory()
    same = [a.fingerprint == b.fingerprint for a, b in zip(before.items, after.items, strict=True)]
    assert same == [True, False]
    assert source.listing() != listed


def test_loading_needs_no_database_even_in_another_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = LidcSlicesSource(str(root))
    sent = pickle.dumps((source, source.inventory().items[0]))
    monkeypatch.setattr(lidc_slices, "read_scans", None)
    monkeypatch.setattr(lidc_slices, "series_uids", None)
    received, item = pickle.loads(sent)  # noqa: S301
    assert received.load(item).bag_label == 1


def test_the_recipe_has_no_folder() -> None:
    assert LidcSlicesSource("somewhere").recipe() == {
        "kind": "lidc_slices", "density": 98.0, "bag": "nodule", "min_readers": 3, "indeterminate": "exclude",
        "rule": "median", "threshold": 3.0, "uncounted": "drop",
    }  # fmt: skip


# The real set


@pytest.fixture(scope="module")
def real_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("lidc_slices.tar", tmp_path_factory)


@pytest.fixture(scope="module", params=[10, pytest.param(1, marks=pytest.mark.exhaustive)], ids=["sample", "all"])
def patients(request: pytest.FixtureRequest, real_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every tenth patient, or with all of them."""
    folder = tmp_path_factory.mktemp("patients")
    for number, patient in enumerate(sorted(real_root.glob("LIDC-IDRI-slices/LIDC-IDRI-*"))):
        if number % request.param == 0:
            (folder / patient.name).symlink_to(patient)
    return folder


@pytest.fixture(autouse=True)
def cluster_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clustering all scans takes seconds; it is tested on its own."""
    monkeypatch.setattr(lidc_slices, "cluster_nodules", lambda scan: _nodules_of()[scan.scan_id])


@functools.cache
def _nodules_of() -> dict[int, list[Nodule]]:
    return {scan.scan_id: list(nodules) for scan, nodules in zip(lidc_scans(), lidc_nodules(), strict=True)}


@pytest.mark.real
@needs("lidc_slices.tar", "lidc_slices_nodules.csv")
def test_every_nodule_agrees_with_the_table_joined_by_pylidc(patients: Path) -> None:
    source = LidcSlicesSource(str(patients), min_readers=1, indeterminate="keep")
    inventory = source.inventory()
    items = {item.bag_id: item for item in inventory.items}
    with (folder() / "lidc_slices_nodules.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 1562
    table = [row for row in rows if (patients / row["patient_id"]).exists()]
    one_scan = [row for row in table if row["n_scans_of_patient"] == "1"]
    assert set(items) == {f"{row['patient_id']}_nodule-{row['nodule']}" for row in one_scan}
    two_scans = {row["patient_id"] for row in table if row["n_scans_of_patient"] == "2"}
    assert {refusal.item for refusal in inventory.refusals} == two_scans
    for number, row in enumerate(one_scan):
        item = items[f"{row['patient_id']}_nodule-{row['nodule']}"]
        (crops,) = item.content.crops
        nodule = crops.row
        assert nodule["ratings"] == row["malignancy"]
        assert nodule["n_readers"] == int(row["n_raters"])
        assert len(crops.files) == int(row["n_png_slices"])
        assert nodule["malignancy"] == pytest.approx(float(row["mal_mean"]), abs=5e-3)
        assert nodule["malignancy_median"] == float(row["mal_median"])
        assert nodule["diameter_mm"] == pytest.approx(float(row["diameter_mean_mm"]), abs=5.1e-3)
        if number % 5:  # pixels of every fifth nodule, to be quick
            continue
        bag = source.load(item)
        assert bag.bag_label == int(float(row["mal_median"]) >= 3)
        assert (bag.diameter_mm, bag.details["n_readers"]) == (nodule["diameter_mm"], nodule["n_readers"])
        assert bag.pixel_spacing_mm[0] == pytest.approx(float(row["pixel_spacing"]))
        assert bag.voxels.shape == (int(row["n_png_slices"]), 128, 128)
        assert (bag.voxels.min(), bag.voxels.max()) == (0, 255)


@pytest.mark.real
@pytest.mark.exhaustive
@needs("lidc_slices.tar")
def test_708_definite_nodules_of_431_patients(real_root: Path) -> None:
    inventory = LidcSlicesSource(str(real_root)).inventory()
    patients = [item.content.patient_id for item in inventory.items]
    assert (len(patients), len(set(patients)), len(inventory.refusals)) == (708, 431, 8)
    labels = Counter(crops.row["malignant"] for item in inventory.items for crops in item.content.crops)
    assert labels == {False: 380, True: 328}
    of_patients = LidcSlicesSource(str(real_root), bag="patient").inventory()
    assert sorted(item.bag_id for item in of_patients.items) == sorted(set(patients))


# Nodules that do not count


def test_uncounted_nodules_train_without_a_label(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), uncounted="train"))
    labels = {bag_id[-1]: (bag.bag_label, set(bag.slice_labels)) for bag_id, bag in found.items()}
    # one reader; median exactly 3; two readers; median exactly 3
    assert labels == dict.fromkeys("0123", (-1, {-1}))
    # 1 | 4 3 3 | 5 4 | 3 3 3 2
    assert [bag.votes for bag in found.values()] == pytest.approx([0, 2 / 3, 1, 3 / 8])
    assert [bag.votes for bag in bags(LidcSlicesSource(str(patient_0063), **ALL)).values()] == pytest.approx(
        [0, 2 / 3, 1, 3 / 8]
    )


def test_a_patient_without_a_counted_nodule_is_a_bag_without_a_label(patient_0063: Path) -> None:
    (bag,) = bags(LidcSlicesSource(str(patient_0063), "patient", uncounted="train")).values()
    assert (bag.bag_label, len(bag.voxels), bag.votes) == (-1, 5, 1)
    (counted,) = bags(LidcSlicesSource(str(patient_0063), "patient", min_readers=4, indeterminate="keep",
                                       uncounted="train")).values()  # fmt: skip
    assert (counted.bag_label, len(counted.voxels), counted.votes) == (1, 1, 3 / 8)


def test_the_other_ratings_are_means_over_the_readers(patient_0063: Path) -> None:
    found = bags(LidcSlicesSource(str(patient_0063), **ALL))
    with closing(sqlite3.connect(f"{database_path().as_uri()}?mode=ro", uri=True)) as db:
        query = """SELECT a.calcification, a.texture, a.malignancy FROM annotations a JOIN scans s ON s.id = a.scan_id
                   WHERE s.patient_id = 'LIDC-IDRI-0063'"""
        read = db.execute(query).fetchall()
    readers = [bag.details["n_readers"] for bag in found.values()]
    assert len(read) == sum(readers)
    for column, name in enumerate(("calcification", "texture")):
        means = [bag.details[f"rating_{name}"] for bag in found.values()]
        assert np.dot(means, readers) == pytest.approx(sum(row[column] for row in read))
    (patient,) = bags(LidcSlicesSource(str(patient_0063), "patient", **ALL)).values()
    largest = max(found.values(), key=lambda bag: bag.diameter_mm)
    assert patient.details["rating_spiculation"] == largest.details["rating_spiculation"]
    assert "rating_malignancy" not in patient.details
