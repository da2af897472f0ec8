"""`python -m lungtl.sync`: what MLflow missed is sent from the runs' folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import SyncConfig
from lungtl.sweeps.parent import publish_sweep, write_parent
from lungtl.sync import run as sync
from lungtl.tracking import publish
from lungtl.tracking.backend import DATABASE, open_client
from lungtl.tracking.tracker import MlflowTracker, Publish, tracked
from lungtl.tracking.unsent import FILE, read_unsent, try_lock, write_unsent
from tests.tracking import run_folder
from tests.tracking.conftest import Switch
from tests.tracking.mlflow_server import MlflowServer
from tests.tracking.run_folder import config, recorded, run_in

pytestmark = pytest.mark.usefixtures("store")


def sync_config(data_dir: Path, uri: str | None = None, run: str | None = None) -> SyncConfig:
    return SyncConfig(data_dir=data_dir, run=run, tracking=config(uri))


@pytest.fixture
def lost(tmp_path: Path, switch: Switch) -> MlflowTracker:
    """A finished run that lost MLflow."""
    (tmp_path / "runs").mkdir()
    switch.limit = 8
    return run_in(tmp_path / "runs" / "lost", tmp_path)


def test_every_marked_run_is_sent_once(
    lost: MlflowTracker, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    sync(sync_config(tmp_path))
    assert capsys.readouterr().out == f"{lost.run_id} {tmp_path / 'runs' / 'lost'}\n"
    assert recorded(open_client(None, tmp_path), lost.run_id) == undisturbed
    sync(sync_config(tmp_path))
    assert capsys.readouterr().out == ""
    assert recorded(open_client(None, tmp_path), lost.run_id) == undisturbed


def test_a_run_can_be_named(lost: MlflowTracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        sync(sync_config(tmp_path, run=lost.run_id[:8]))
    assert capsys.readouterr().out.splitlines() == [f"{lost.run_id} {tmp_path / 'runs' / 'lost'}"]


def test_a_running_process_is_left_alone(lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "runs" / "lost"
    own = try_lock(folder)
    with caplog.at_level(logging.INFO):
        sync(sync_config(tmp_path))
    assert "still runs" in caplog.text
    assert "MLflow has everything but 1 run that did not end" in caplog.text
    with pytest.raises(LungtlError, match="still runs"):
        sync(sync_config(tmp_path, run=str(folder)))
    assert (folder / FILE).is_file()
    own.release()


def test_a_kill_while_mlflow_has_everything_is_recorded_too(tmp_path: Path) -> None:
    whole = MlflowTracker(config(), tmp_path, "killed", tmp_path / "evaluations" / "killed", publish.evaluation)
    run_id = whole.run_id
    assert read_unsent(tmp_path / "evaluations" / "killed") is not None
    sync(sync_config(tmp_path))
    assert read_unsent(tmp_path / "evaluations" / "killed") is not None
    del whole  # as a kill does, this releases the lock
    sync(sync_config(tmp_path))
    assert open_client(None, tmp_path).get_run(run_id).info.status == "KILLED"
    assert read_unsent(tmp_path / "evaluations" / "killed") is None


def test_a_killed_process_is_recorded_as_such(lost: MlflowTracker, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "lost"
    unsent = read_unsent(folder)
    assert unsent is not None
    write_unsent(folder, replace(unsent, status=None, end_time=None))
    sync(sync_config(tmp_path))
    assert open_client(None, tmp_path).get_run(lost.run_id).info.status == "KILLED"


def test_what_mlflow_refuses_stays_marked(
    lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = open_client(None, tmp_path)
    client.delete_run(lost.run_id)
    with pytest.raises(LungtlError):
        sync(sync_config(tmp_path))
    assert lost.run_id in caplog.text
    assert (tmp_path / "runs" / "lost" / FILE).is_file()
    client.restore_run(lost.run_id)
    sync(sync_config(tmp_path))


def test_an_evaluation_and_a_sweep_are_sent_too(tmp_path: Path, switch: Switch) -> None:
    evaluation, sweep = tmp_path / "evaluations" / "e", tmp_path / "sweeps" / "s"
    (evaluation / ".hydra").mkdir(parents=True)
    (evaluation / ".hydra" / "config.yaml").write_text("split: auto\nthreshold: 0.5\nresamples: 20\n")
    run_folder.write_metrics(evaluation, model="abc", store_name="phantom-1", store_fingerprint="aa")
    (sweep / "report").mkdir(parents=True)
    (sweep / "report" / "report.html").write_text("")
    (sweep / "multirun.yaml").write_text("")
    write_parent(sweep, None, 2, "val/loss")
    kinds: list[tuple[Path, Publish]] = [(evaluation, publish.evaluation), (sweep, publish_sweep)]
    trackers = []
    for folder, publisher in kinds:
        switch.limit = None
        tracker = MlflowTracker(config(), tmp_path, folder.name, folder, publisher)
        switch.limit = 0
        with tracked(tracker):
            publisher(tracker, folder)
        trackers.append(tracker)
    sync(sync_config(tmp_path))
    found = [recorded(open_client(None, tmp_path), tracker.run_id) for tracker in trackers]
    assert [one["status"] for one in found] == ["FINISHED", "FINISHED"]
    assert [one["tags"]["lungtl.kind"] for one in found] == ["evaluation", "sweep"]
    assert found[0]["metrics"]["test_auroc"] == [(0, "0.875")]
    assert found[1]["metrics"]["runs/left"] == [(0, "2.0")]
    assert found[1]["artifacts"] == ["multirun.yaml", "report/report.html"]


def test_a_password_has_to_be_given_again(
    lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "runs" / "lost"
    unsent = read_unsent(folder)
    assert unsent is not None
    write_unsent(folder, replace(unsent, tracking_uri="http://***@host"))
    with pytest.raises(LungtlError):
        sync(sync_config(tmp_path))
    assert "set the environment variable MLFLOW_TRACKING_URI" in caplog.text
    sync(sync_config(tmp_path, uri=f"sqlite:///{tmp_path / DATABASE}"))
    assert read_unsent(folder) is None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.mark.exhaustive
def test_a_killed_server_stops_no_run(
    server: MlflowServer, tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """A real server, killed; tests/commands/test_tracking_lost.py does the same with the commands."""
    folder = tmp_path / "runs" / "lost"
    folder.mkdir(parents=True)
    lost = MlflowTracker(config(server.uri), tmp_path, "a run", folder, publish.run)
    with tracked(lost):
        run_folder.begin(lost, folder)
        run_folder.train(lost, folder, last=2)
        server.kill()
        run_folder.train(lost, folder, first=2)
        run_folder.finish(lost, folder)
    begun, ended = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert begun.startswith("MLflow is unreachable (")
    assert ended.endswith(f"python -m lungtl.sync data_dir={tmp_path}")
    server.start()
    sync(sync_config(tmp_path))  # the marker knows the server's address
    assert recorded(lost.client, lost.run_id) == undisturbed
