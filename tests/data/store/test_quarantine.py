"""Bags that a source refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lungtl.data.store.writer import prepare
from lungtl.settings.errors import LungtlError
from lungtl.sources.dicom import DicomSource
from tests.data.store.made import Made
from tests.dicom_files import UID, write_series


def lines(store: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (store / "quarantine.jsonl").read_text().splitlines()]


def test_quarantine(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), refused=("bag-04", "bag-02"), at_sight=("x.dcm",))
    store = prepare(source, tmp_path)
    assert lines(store.path) == [
        {"item": "x.dcm", "reason": "unreadable", "remedy": "look at it"},
        {"item": "bag-02", "reason": "bag-02 is bad", "remedy": "fix it"},
        {"item": "bag-04", "reason": "bag-04 is bad", "remedy": "fix it"},
    ]
    assert (store.manifest["n_refused"], store.manifest["n_bags"]) == (3, 10)
    assert not {"bag-02", "bag-04"} & set(store.bags["bag_id"])


def test_the_quarantine_depends_on_the_input(tmp_path: Path) -> None:
    write_series(tmp_path / "scans", [0, 2])
    (tmp_path / "labels.csv").write_text(f"series_uid,patient_id,label\n{UID},p,1\n")
    source = DicomSource(str(tmp_path / "scans"), str(tmp_path / "labels.csv"))
    clean = prepare(source, tmp_path)
    (tmp_path / "scans" / "broken.dcm").write_bytes(b"no DICOM")
    broken = prepare(source, tmp_path)
    assert (lines(clean.path), [line["item"] for line in lines(broken.path)]) == ([], ["broken.dcm"])
    assert broken.fingerprint == clean.fingerprint  # the tables and voxels are the same
    (tmp_path / "scans" / "broken.dcm").unlink()
    assert prepare(source, tmp_path).path == clean.path


def test_nothing_refused(tmp_path: Path) -> None:
    assert lines(prepare(Made(str(tmp_path / "diary")), tmp_path).path) == []


def test_everything_refused_and_then_fixed(tmp_path: Path) -> None:
    ids = ("bag-00", "bag-01")
    with pytest.raises(LungtlError, match=r"all 2 items of dataset made were refused \(bag-00: bag-00 is bad\)") as e:
        prepare(Made(str(tmp_path / "diary"), ids=ids, refused=ids), tmp_path)
    quarantine = Path(str(e.value).rpartition(" in ")[2])
    assert [line["item"] for line in lines(quarantine.parent)] == list(ids)
    assert prepare(Made(str(tmp_path / "diary"), ids=ids), tmp_path).manifest["n_bags"] == 2


def test_an_empty_dataset(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"nothing in dataset made can be used \(0 refused; made: it is empty\)"):
        prepare(Made(str(tmp_path / "diary"), ids=()), tmp_path)


def test_everything_refused_by_the_inventory(tmp_path: Path) -> None:
    source = Made(str(tmp_path / "diary"), ids=(), at_sight=("x", "y"))
    with pytest.raises(LungtlError, match=r"can be used \(2 refused; x: unreadable\); look at it"):
        prepare(source, tmp_path)
    assert not list((tmp_path / "stores").glob("made*"))
