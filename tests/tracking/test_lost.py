"""MLflow lost while a run goes on: a real server that is killed, and a database that is locked."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrackingConfig
from lungtl.tracking.backend import DATABASE, experiment_id, open_client
from lungtl.tracking.spool import send_all, unsynced
from lungtl.tracking.tracker import MlflowTracker
from tests.tracking.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow
LOCAL = TrackingConfig(enabled=True, uri=None, experiment="lost")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


def begin(uri: str | None, data_dir: Path) -> MlflowTracker:
    """A run's first half."""
    tracker = MlflowTracker(TrackingConfig(enabled=True, uri=uri, experiment="lost"), data_dir, "a run")
    tracker.params({"seed": 0})
    tracker.metrics({"loss": 1.0}, 0)
    return tracker


def go_on(tracker: MlflowTracker, folder: Path) -> None:
    """Its second half."""
    for step in (1, 2, 3):
        tracker.metrics({"loss": 1.0 / (step + 1)}, step)
    tracker.tags({"backbone": "resnet18"})
    (folder / "figures").mkdir(exist_ok=True)
    (folder / "figures" / "roc.png").write_bytes(b"picture")
    tracker.artifacts(folder / "figures", "figures")


def engine_of(tracker: MlflowTracker) -> Any:
    """The database's connections."""
    return tracker.client._tracking_client.store.engine


def check_whole(tracker: MlflowTracker) -> None:
    run = tracker.client.get_run(str(tracker.run_id))
    history = tracker.client.get_metric_history(str(tracker.run_id), "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 1 / 2), (2, 1 / 3), (3, 1 / 4)]
    assert run.data.tags["backbone"] == "resnet18"
    assert [a.path for a in tracker.client.list_artifacts(str(tracker.run_id), "figures")] == ["figures/roc.png"]
    assert run.info.status == "FINISHED"


def test_a_killed_server_stops_no_run_and_gets_the_rest_later(
    server: MlflowServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    data_dir = tmp_path / "data"
    ended, running = begin(server.uri, data_dir), begin(server.uri, data_dir)
    server.kill()
    go_on(ended, tmp_path)
    ended.close("FINISHED")
    lost, end = (record.getMessage() for record in caplog.records)
    assert lost.startswith("MLflow is lost (")
    assert end.endswith(f"python -m lungtl.sync data_dir={data_dir} tracking.uri={server.uri}")

    go_on(running, tmp_path)
    (spool,) = (spool for spool in unsynced(data_dir) if spool.run_id == ended.run_id)
    with pytest.raises(LungtlError, match="did not take the metrics"):
        send_all(spool, ended.client)

    server.start()
    running.close("FINISHED")  # MLflow is back in time: nothing is left to do
    check_whole(running)
    assert [spool.run_id for spool in unsynced(data_dir)] == [ended.run_id]
    assert send_all(spool, ended.client) == 6
    check_whole(ended)
    assert unsynced(data_dir) == []


def test_a_locked_database_is_waited_for_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    tracker = begin(None, tmp_path)

    @event.listens_for(engine_of(tracker), "before_cursor_execute", retval=True)
    def hurry(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters

    other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    go_on(tracker, tmp_path)
    other.execute("ROLLBACK")
    tracker.close("FINISHED")
    (lost,) = (record.getMessage() for record in caplog.records)
    assert "database is locked" in lost
    check_whole(tracker)


def test_a_full_disk_is_survived(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    tracker = begin(None, tmp_path)
    engine = engine_of(tracker)
    with engine.connect() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    tracker.tags({f"tag{i}": "x" * 4000 for i in range(20)})
    assert "database or disk is full" in caplog.text
    engine.dispose()  # the next connection knows no such limit
    go_on(tracker, tmp_path)
    tracker.close("FINISHED")
    check_whole(tracker)
    assert tracker.client.get_run(str(tracker.run_id)).data.tags["tag19"] == "x" * 4000


def test_a_resumed_run_first_sends_what_was_kept(tmp_path: Path) -> None:
    tracker = begin(None, tmp_path)
    (tmp_path / DATABASE).rename(tmp_path / "away")
    engine_of(tracker).dispose()
    go_on(tracker, tmp_path)
    tracker.close("KILLED")
    (tmp_path / "away").replace(tmp_path / DATABASE)
    engine_of(tracker).dispose()
    again = MlflowTracker(LOCAL, tmp_path, "ignored", run_id=tracker.run_id)
    assert unsynced(tmp_path) == []
    assert again.client.get_run(str(again.run_id)).info.status == "RUNNING"
    again.close("FINISHED")
    check_whole(again)


def test_experiments_of_a_server_keep_artifacts_where_the_server_says(server: MlflowServer, tmp_path: Path) -> None:
    client = open_client(server.uri, tmp_path)
    found = client.get_experiment(experiment_id(client, "mine", server.uri, tmp_path))
    assert found.artifact_location.startswith("mlflow-artifacts:/")
