from __future__ import annotations

import pytest

from tests.commands.conftest import N_SERIES, Done, Lab, read_csv, read_json

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def crossed(lab: Lab) -> Done:
    """Two settings of three folds; the second asks for more blocks than there are."""
    return lab.run(
        "crossval", *lab.dataset(), "backbone.name=test_resnet.r160_in1k", "backbone.weights=none", "image.size=32",
        "trainer.accelerator=cpu", "trainer.max_epochs=1", "workers=1", "tracking=none", "split.folds=3",
        "freezing=last_blocks", "freezing.n=1,99", "evaluation.figures=false", "evaluation.resamples=50",
    )  # fmt: skip


def test_the_runs_and_then_the_pooled_results_are_printed(lab: Lab, crossed: Done) -> None:
    *runs, pooled = crossed.out.splitlines()
    assert len(runs) == 3
    assert pooled.endswith("/pooled")
    assert [row["setting"] for row in read_csv(lab.data_dir / pooled / "table.csv")] == [
        "backbone.weights=none image.size=32 trainer.max_epochs=1 split.folds=3 freezing.n=1 evaluation.resamples=50 "
        "dicom test_resnet.r160_in1k last_blocks mean_max"
    ]


def test_every_patient_is_tested_once(lab: Lab, crossed: Done) -> None:
    *runs, pooled = crossed.out.splitlines()
    rows = read_csv(lab.data_dir / pooled / "0" / "oof_predictions.csv")
    assert sorted(row["patient_id"] for row in rows) == [f"p{i:02d}" for i in range(N_SERIES)]
    own = [row for folder in runs for row in read_csv(lab.data_dir / folder / "predictions.csv")]
    assert {row["bag_id"]: row["probability"] for row in rows} == {row["bag_id"]: row["probability"] for row in own}
    document = read_json(lab.data_dir / pooled / "0" / "metrics.json")
    assert document["bag"]["n"] == document["controls"]["untrained"]["n"] == N_SERIES


def test_the_setting_whose_folds_failed_is_named_and_fails_the_command(crossed: Done) -> None:
    assert crossed.code == 1
    assert "Traceback" not in crossed.err
    (line,) = [line for line in crossed.err.splitlines() if line.startswith("not pooled: ")]
    assert "freezing.n=99" in line
    assert "fold 0, 1, 2 did not finish" in line
    assert crossed.err.splitlines()[-1].startswith("error: 1 of 2 settings and seeds are not pooled")
