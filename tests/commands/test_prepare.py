from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.commands.conftest import Done, Lab, read_json, uid
from tests.forked import isolated

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def prepared(lab: Lab, mixed: Path) -> Done:
    """Two good series and two bad ones."""
    table = lab.table("mixed.csv", [*lab.rows([0, 1]), (uid(90), "p90", "1"), (uid(91), "p91", "")])
    return lab.run("prepare", *lab.dataset(table), f"dataset.root={mixed}")


def test_the_store_is_all_of_standard_output(lab: Lab, prepared: Done) -> None:
    assert prepared.folder.parent == lab.data_dir / "stores"
    assert prepared.folder.name.startswith("dicom-")
    for name in ("manifest.json", "bags.parquet", "slices.parquet", "quarantine.jsonl"):
        assert (prepared.folder / name).is_file(), name
    assert len(list((prepared.folder / "voxels").iterdir())) == 2
    assert read_json(prepared.folder / "manifest.json")["n_bags"] == 2


def test_the_tables_have_the_columns_that_scripts_read(prepared: Done) -> None:
    bags = pd.read_parquet(prepared.folder / "bags.parquet")
    assert {"bag_id", "patient_id", "bag_label", "split"} <= set(bags.columns)
    assert bags["bag_id"].tolist() == [uid(0), uid(1)]
    assert bags["bag_label"].tolist() == [0, 1]
    slices = pd.read_parquet(prepared.folder / "slices.parquet")
    assert {"bag_id", "index", "z_mm", "slice_label"} <= set(slices.columns)
    assert slices["z_mm"].tolist() == [0, 1, 2, 3, 4, 5] * 2  # 5 slices at 1.25 mm


def test_bad_series_are_quarantined_and_the_rest_goes_on(prepared: Done) -> None:
    lines = [json.loads(line) for line in (prepared.folder / "quarantine.jsonl").read_text().splitlines()]
    assert {line["item"] for line in lines} == {uid(90), uid(91)}
    assert all(line["reason"] and line["remedy"] for line in lines)
    assert "2 refused" in prepared.err


def test_the_same_command_finds_the_store_again(lab: Lab, mixed: Path, prepared: Done) -> None:
    again = lab.run("prepare", *lab.dataset(lab.root / "mixed.csv"), f"dataset.root={mixed}")
    assert again.folder == prepared.folder


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (lambda lab: lab.dataset(lab.table("unknown.csv", [*lab.rows([0]), ("1.2.3", "p99", "1")])), "1.2.3"),
        (
            lambda lab: lab.dataset(lab.table("two.csv", [(uid(0), "p", "0"), (uid(0), "p", "1")])),
            f"{uid(0)} is repeated",
        ),
        (lambda lab: lab.dataset(lab.table("grade.csv", [(uid(0), "p", "4")])), "label is '4'"),
        (lambda lab: [*lab.dataset(), "dataset.root=/nowhere"], "dataset.root=/nowhere"),
        (lambda lab: lab.dataset(lab.root / "nothing.csv"), "nothing.csv does not exist"),
        (lambda lab: [*lab.dataset(), f"dataset.root={lab.table('empty/x.csv', []).parent}"], "no DICOM file"),
    ],
    ids=["unknown-id", "two-labels", "no-label", "no-root", "no-table", "no-series"],
)
def test_a_dataset_that_cannot_be_used(lab: Lab, arguments: Callable[[Lab], list[str]], said: str) -> None:
    (lab.root / "empty").mkdir(exist_ok=True)
    assert said in lab.run("prepare", *arguments(lab)).complaint()


def test_a_missing_option_is_wrong_usage(lab: Lab) -> None:
    assert "dataset.root is missing" in lab.run("prepare", "dataset=dicom").complaint(2)


LABELS = """
import runpy, sys
sys.argv[0] = "lungtl.prepare"
runpy.run_module("lungtl.prepare", run_name="__main__", alter_sys=True)
open("imported", "w").write(str(sorted({"torch", "pylidc", "matplotlib", "sqlalchemy"} & set(sys.modules))))
"""


@pytest.fixture(scope="module")
def labels(lab: Lab) -> Done:
    """In a process of its own that imports only what the command needs, with an empty home folder."""
    (lab.root / "home").mkdir()
    variables = {**isolated(lab.root), "HOME": str(lab.root / "home")}
    done = subprocess.run(
        [sys.executable, "-c", LABELS, "dataset=lidc", "labels_only=true", f"data_dir={lab.data_dir}"],
        env=variables, capture_output=True, text=True, check=True, cwd=lab.root,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def test_labels_of_lidc_need_no_dicom_file(lab: Lab, labels: Done) -> None:
    assert labels.folder.parent == lab.data_dir / "labels"
    nodules = pd.read_csv(labels.folder / "nodules.csv")
    scans = pd.read_parquet(labels.folder / "scans.parquet")
    assert (len(nodules), nodules["malignant"].sum()) == (2651, 1286)
    assert (len(scans), (scans["label"] == 1).sum()) == (1018, 665)
    assert "rated exactly 3: malignant" in (labels.folder / "README.md").read_text()
    for number in ("1286", "665", "324776"):
        assert number in labels.err


def test_labels_are_written_once(lab: Lab, labels: Done) -> None:
    before = {path: path.stat().st_mtime_ns for path in labels.folder.iterdir()}
    again = lab.run("prepare", "dataset=lidc", "labels_only=true", "dataset.root=/nowhere")
    assert (again.folder, again.err) == (labels.folder, labels.err)
    assert {path: path.stat().st_mtime_ns for path in labels.folder.iterdir()} == before


def test_labels_import_neither_torch_nor_pylidc_and_leave_the_home_folder_empty(lab: Lab, labels: Done) -> None:
    assert (lab.root / "imported").read_text() == "[]"
    assert list((lab.root / "home").iterdir()) == []


def test_only_lidc_has_labels_alone(lab: Lab) -> None:
    assert "add dataset=lidc" in lab.run("prepare", *lab.dataset(), "labels_only=true").complaint(2)


def test_a_store_of_lidc_needs_its_folder(lab: Lab) -> None:
    complaint = lab.run("prepare", "dataset=lidc").complaint(2)
    assert "dataset.root is missing; give dataset.root=FOLDER" in complaint
    assert "labels_only=true" in complaint
