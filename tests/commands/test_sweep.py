from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.commands.conftest import Done, Lab, Trained, read_json

pytestmark = pytest.mark.slow


def _folders(done: Done) -> list[Path]:
    return [Path(line) for line in done.out.splitlines()]


def _parent(client: Any, sweep: Path) -> Any:
    return client.get_run(read_json(sweep / "parent.json")["mlflow_run_id"])


def test_every_run_is_printed(lab: Lab, swept: Done) -> None:
    assert swept.code == 0
    folders = _folders(swept)
    assert [folder.name for folder in folders] == ["0", "1"]
    assert folders[0].parent == folders[1].parent
    assert folders[0].parent.parent == lab.data_dir / "sweeps"
    for folder in folders:
        assert (folder / "metrics.json").is_file()


def test_the_comparison_goes_to_standard_error(swept: Done) -> None:
    table = swept.err[swept.err.rindex("auroc") :]  # from its header on; each run printed one of its own before
    for row in ("mean", "max", "control: prevalence"):
        assert f"│ {row} " in table
    assert f"sweep: {_folders(swept)[0].parent}" in swept.err


def test_mlflow_groups_the_runs_under_one_parent(swept: Done, client: Any) -> None:
    folders = _folders(swept)
    parent = _parent(client, folders[0].parent)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["lungtl.kind"] == "sweep"
    assert "aggregator=mean,max" in parent.data.tags["lungtl.grid"]
    for folder, aggregator in zip(folders, ("mean", "max"), strict=True):
        child = client.get_run(read_json(folder / "run.json")["mlflow_run_id"])
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["aggregator"] == aggregator


@pytest.fixture(scope="module")
def broken(lab: Lab, trained: Trained) -> Done:
    """The first of two jobs asks for more blocks than there are."""
    return lab.train("freezing=last_blocks", "freezing.n=99,1", "trainer.max_epochs=1", sweep=True)


def test_beside_a_failing_job_the_other_one_finishes(broken: Done) -> None:
    (finished,) = _folders(broken)
    assert finished.name == "1"
    assert (finished / "metrics.json").is_file()


def test_a_failing_job_fails_the_sweep(broken: Done) -> None:
    assert broken.code == 1
    assert "Traceback" not in broken.err
    last = broken.err.rstrip().splitlines()[-1]
    assert last.startswith("error: ")


def test_a_failing_job_leaves_the_comparison(broken: Done) -> None:
    assert "test patients; 95 %" in broken.err
    assert "control: prevalence" in broken.err


def test_mlflow_says_which_job_failed(broken: Done, client: Any) -> None:
    sweep = _folders(broken)[0].parent
    parent = _parent(client, sweep)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["failed_jobs"] == 1
    statuses = [client.get_run(read_json(sweep / job / "run.json")["mlflow_run_id"]).info.status for job in ("0", "1")]
    assert statuses == ["FAILED", "FINISHED"]
