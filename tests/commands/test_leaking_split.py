from __future__ import annotations

import csv

import numpy as np
import pytest

from tests.commands.conftest import Lab

pytestmark = pytest.mark.slow


def test_a_dataset_whose_own_split_separates_a_patient_is_not_trained_on(lab: Lab) -> None:
    """Two crops of each patient, and a split that was drawn crop by crop."""
    np.savez(lab.root / "crops.npz", np.random.default_rng(0).integers(-900, 300, (24, 32, 32)).astype(np.int16))
    with (lab.root / "crops.csv").open("w", newline="") as file:
        rows = [(f"b{i}", f"p{i // 2}", i // 2 % 2, ("train", "val", "test")[i % 3]) for i in range(24)]
        csv.writer(file).writerows([("id", "patient_id", "label", "split"), *rows])
    command = ["dataset=arrays", f"dataset.images={lab.root / 'crops.npz'}", f"dataset.table={lab.root / 'crops.csv'}",
               "dataset.split_column=split", "tracking=none", "workers=1"]  # fmt: skip
    before = set(lab.data_dir.glob("runs/*/split.csv"))
    complaint = lab.run("train", *command, "split.kind=source").complaint()
    assert "patient p0 is in two splits (12 such patients)" in complaint
    assert set(lab.data_dir.glob("runs/*/split.csv")) == before
