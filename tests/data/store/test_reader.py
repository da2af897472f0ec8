"""Reading stores: the content is that of the source."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256
from lungtl.sources.dicom import DicomSource
from tests.data.store.made import Made
from tests.dicom_files import UID, ramp, write_series


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return prepare(Made(str(tmp_path / "diary"), refused=("bag-02",), at_sight=("x", "y")), tmp_path)


def test_manifest(store: Store) -> None:
    manifest = dict(store.manifest)
    tables, content_hash = manifest.pop("tables"), manifest.pop("fingerprint")
    assert len(manifest.pop("source_fingerprint")) == len(content_hash) == len(manifest.pop("checksum")) == 64
    assert manifest.pop("quarantine") == sha256(store.path / "quarantine.jsonl")
    assert manifest == {
        "format": 3,
        "source": "made",
        "recipe": {"kind": "made", "option": 1},
        "value_range": None,
        "slice_step_mm": None,
        "n_bags": 11,
        "n_slices": 1 + 2 + 1 + 2 + 3 + 1 + 2 + 3 + 1 + 2 + 3,  # without bag-02
        "n_patients": 6,
        "n_refused": 3,
        "bag_labels": {"0": 5, "1": 6},
    }
    assert tables == {
        f"{name}.parquet": sha256(store.path / f"{name}.parquet") for name in ("bags", "slices", "nodules")
    }


def test_bags(store: Store) -> None:
    row = store.bags.iloc[4].to_dict()  # bag-05: bag-02 is missing
    assert len(row.pop("voxels_sha256")) == 64
    unknown = ("row_spacing_mm", "column_spacing_mm", "votes", "diameter_mm")
    assert np.isnan([row.pop(name) for name in unknown]).all()
    assert store.bags["split"].isna().all()
    del row["split"]
    assert row == {"bag_id": "bag-05", "patient_id": "p2", "bag_label": 1, "n_slices": 3, "height": 2, "width": 4,
                   "colour": "grey", "voxels": "voxels/bag-05.npy"}  # fmt: skip


def test_slices(store: Store) -> None:
    rows = store.slices[store.slices["bag_id"] == "bag-05"]
    assert rows[["index", "z_mm", "slice_label"]].to_numpy().tolist() == [[0, 0.5, 2], [1, 1.5, 2], [2, 2.5, 2]]
    assert store.slices["bag_id"].tolist()[:4] == ["bag-00", "bag-01", "bag-01", "bag-03"]


def test_nodules(store: Store) -> None:
    assert store.nodules is not None
    assert store.nodules.to_dict("records") == [{"bag_id": "bag-01", "nodule": 0, "malignancy": 2.5}]


def test_arrays_of_one_bag(store: Store) -> None:
    voxels = store.voxels("bag-07")
    assert voxels.dtype == np.int16
    assert np.array_equal(voxels, np.full((2, 2, 4), 7))
    assert isinstance(voxels, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        voxels[0, 0, 0] = 1
    assert store.slice_labels("bag-07").tolist() == [1, 1]
    assert store.z_mm("bag-07").tolist() == [0.5, 1.5]


def test_no_nodules_no_table(tmp_path: Path) -> None:
    store = prepare(Made(str(tmp_path / "diary"), ids=("bag-00",)), tmp_path)
    assert store.nodules is None
    assert not (store.path / "nodules.parquet").exists()


def test_grey_values(tmp_path: Path) -> None:
    assert prepare(Made(str(tmp_path / "diary")), tmp_path).value_range is None
    assert prepare(Made(str(tmp_path / "diary"), value_range=(0, 255)), tmp_path).value_range == (0, 255)


def test_from_dicom_to_the_store(tmp_path: Path) -> None:
    write_series(tmp_path / "scans", [4, 2, 0], ramp(3), PixelSpacing=["0.5", "0.75"])
    (tmp_path / "scans" / "zero.dcm").touch()
    (tmp_path / "labels.csv").write_text(f"series_uid,patient_id,label,split\n{UID},p,1,val\n")
    store = prepare(DicomSource(str(tmp_path / "scans"), str(tmp_path / "labels.csv")), tmp_path / "data")
    bag = store.bags.iloc[0]
    assert (bag["bag_id"], bag["bag_label"], bag["split"], bag["n_native_slices"]) == (UID, 1, "val", 3)
    assert (bag["row_spacing_mm"], bag["column_spacing_mm"]) == (0.5, 0.75)
    assert np.array_equal(store.voxels(UID)[::2], ramp(3)[::-1] - 1024)
    assert np.array_equal(store.voxels(UID)[1], ramp(3)[1] - 1024 + 42)  # half of 84, the step between slices
    assert (store.manifest["n_refused"], store.manifest["slice_step_mm"]) == (1, 1.0)


# Not a store


def test_unfinished_folder(tmp_path: Path) -> None:
    (tmp_path / "voxels").mkdir()
    with pytest.raises(LungtlError, match=r"is not a finished store \(no manifest.json\); run .*-m lungtl\.prepare$"):
        Store(tmp_path)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match="is not a finished store"):
        Store(tmp_path / "gone")


def test_another_format(store: Store) -> None:
    (store.path / "manifest.json").write_text(json.dumps({**store.manifest, "format": 99}))
    with pytest.raises(LungtlError, match="has store format 99, this version of lungtl reads 3; remove it"):
        Store(store.path)
