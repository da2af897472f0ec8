from __future__ import annotations

import pytest

from tests.commands.conftest import MODEL, Lab, read_csv

pytestmark = pytest.mark.slow


def test_anyone_can_see_it_on_the_phantom(lab: Lab) -> None:
    folder = lab.run("leak_demo", *MODEL, "dataset.scans=24", "dataset.matrix=64", "split.folds=3", "workers=1").folder
    assert {"README.md", "leak.png", "table.csv"} <= {path.name for path in folder.iterdir()}
    rows = [row for row in read_csv(folder / "table.csv") if row["labels"] == "random labels"]
    patient, slices = (
        [float(row["auroc"]) for row in rows if row["kept_together"] == kept] for kept in ("patient", "slice")
    )
    assert len(patient) == len(slices) == 5
    assert min(slices) > max(patient)
