from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from tests.commands.conftest import Done, Lab, read_json, uid

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
        (lambda lab: lab.dataset(lab.table("two-labels.csv", [(uid(0), "p", "0"), (uid(1), "p", "1")])), "patient p "),
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
