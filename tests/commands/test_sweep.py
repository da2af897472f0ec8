from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lungtl.sweeps.state import read_states
from lungtl.tracking.mlflow_run import git_tags
from tests.commands.conftest import QUICK, Done, Lab, Trained, read_json

pytestmark = pytest.mark.slow


def _folders(done: Done) -> list[Path]:
    return [Path(line) for line in done.out.splitlines()]


def _aggregator(run: Path) -> str:
    return str(read_json(run / "run.json")["name"].rpartition("=")[2])


def _parent(client: Any, sweep: Path) -> Any:
    return client.get_run(read_json(sweep / "parent.json")["mlflow_run_id"])


def test_every_run_is_printed(lab: Lab, swept: Done) -> None:
    assert swept.code == 0
    folders = _folders(swept)
    assert [_aggregator(folder) for folder in folders] == ["mean", "max"]
    assert folders[0].parent == folders[1].parent
    assert folders[0].parent.parent == lab.data_dir / "sweeps"
    for folder in folders:
        assert (folder / "metrics.json").is_file()


def _best(folders: list[Path]) -> Path:
    """The run with the highest AUROC on validation, the first of equal ones."""
    return max(folders, key=lambda folder: read_json(folder / "metrics.json")["training"]["val_auroc"])


def test_the_comparison_goes_to_standard_error(swept: Done) -> None:
    lines = swept.err.splitlines()
    runs = [line for line in lines if line.startswith("run ")]
    assert [line.split("  ")[:2] for line in runs] == [["run 1/2", "aggregator=mean"], ["run 2/2", "aggregator=max"]]
    table = lines[next(i for i, line in enumerate(lines) if line.startswith("aggregator ")) :]
    assert {line.split()[0] for line in table[2:4]} == {"mean", "max"}
    assert table[4].startswith("control: prevalence ")
    assert f"report  {_folders(swept)[0].parent / 'report' / 'report.html'}" in lines


def test_the_best_run_is_named_last_with_what_chose_it(swept: Done) -> None:
    best = _best(_folders(swept))
    reference = read_json(best / "run.json")["mlflow_run_id"]
    assert f"Best setting on validation: {_aggregator(best)} (AUROC " in swept.err
    ui, register = swept.err.splitlines()[-2:]
    assert ui.endswith("-m lungtl.ui")  # its data_dir is the default one
    assert register.endswith(f"-m lungtl.register run={reference}")


def test_what_is_going_to_happen_is_said_first(swept: Done) -> None:
    sweep = _folders(swept)[0].parent
    assert f"sweep {sweep.name}: 2 new: {sweep}" in swept.err.splitlines()


def test_mlflow_groups_the_runs_under_one_parent(swept: Done, client: Any) -> None:
    folders = _folders(swept)
    parent = _parent(client, folders[0].parent)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["lungtl.kind"] == "sweep"
    assert parent.info.run_name == f"sweep {folders[0].parent.name}"
    assert "aggregator=mean,max" in parent.data.tags["lungtl.grid"]
    assert git_tags().items() <= parent.data.tags.items()
    assert parent.data.tags["lungtl.progress"] == "2 done, 0 failed, 0 left"
    for folder, aggregator in zip(folders, ("mean", "max"), strict=True):
        child = client.get_run(read_json(folder / "run.json")["mlflow_run_id"])
        assert child.info.status == "FINISHED"
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["aggregator"] == aggregator
        assert child.data.tags["sweep"] == parent.data.tags["sweep"] == folder.parent.name
        assert child.data.tags["lungtl.config_key"] == folder.name


def test_mlflow_shows_the_best_run_and_the_comparison(swept: Done, client: Any) -> None:
    folders = _folders(swept)
    parent = _parent(client, folders[0].parent)
    losses = {folder: read_json(folder / "metrics.json")["training"]["val/loss"] for folder in folders}
    best = min(folders, key=lambda folder: losses[folder])
    assert parent.data.metrics["best_val_loss"] == losses[best]
    assert parent.data.tags["lungtl.best"] == read_json(_best(folders) / "run.json")["mlflow_run_id"]
    left = client.get_metric_history(parent.info.run_id, "runs/left")
    assert [point.value for point in left if point.step == 1] == [1]
    kept = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert kept >= {"config.yaml", "multirun.yaml", "report"}
    assert "report/report.html" in {item.path for item in client.list_artifacts(parent.info.run_id, "report")}


@pytest.fixture(scope="module")
def broken(lab: Lab, trained: Trained) -> Done:
    """The first of two jobs asks for more blocks than there are."""
    return lab.train("freezing=last_blocks", "freezing.n=99,1", "trainer.max_epochs=1", *QUICK, sweep=True)


def test_beside_a_failing_job_the_other_one_finishes(broken: Done) -> None:
    (finished,) = _folders(broken)
    assert read_json(finished / "status.json")["number"] == 1
    assert (finished / "metrics.json").is_file()


def test_a_failing_job_fails_the_sweep(broken: Done) -> None:
    assert broken.code == 1
    assert "Traceback" not in broken.err
    why, last = broken.err.rstrip().splitlines()[-2:]
    assert why == "not finished: freezing.n=99: freezing.n=99: test_resnet.r160_in1k has 5 blocks; give 1 to 5"
    assert last.startswith("error: 1 run did not finish")
    assert last.endswith(f" sweep.name={_folders(broken)[0].parent.name} sweep.retry=true")


def test_a_failing_job_leaves_the_comparison(broken: Done) -> None:
    assert "There is one setting" in broken.err
    assert "control: prevalence" in broken.err


def test_a_search_that_hydra_cannot_start_is_closed_in_mlflow(lab: Lab, trained: Trained, client: Any) -> None:
    pytest.importorskip("optuna")
    space = "+hydra.sweeper.params={head.dropout:'interval(0,'}"
    done = lab.train("hydra/sweeper=optuna", space, "sweep.name=unread", *QUICK, sweep=True)
    assert done.code == 1
    assert done.err.splitlines()[-1].startswith("error: ")
    assert _parent(client, lab.data_dir / "sweeps" / "unread").info.status == "FAILED"


def test_mlflow_says_which_job_failed(broken: Done, client: Any) -> None:
    sweep = _folders(broken)[0].parent
    parent = _parent(client, sweep)
    assert parent.info.status == "FAILED"
    assert parent.data.metrics["runs/failed"] == 1
    statuses = [client.get_run(read_json(run / "run.json")["mlflow_run_id"]).info.status for run in read_states(sweep)]
    assert statuses == ["FAILED", "FINISHED"]
