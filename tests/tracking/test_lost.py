"""MLflow goes away during a run: the run continues, and MLflow ends up with the same record as without the loss."""

from __future__ import annotations

import json
import logging
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from lungtl.tracking import publish
from lungtl.tracking.backend import DATABASE, open_client
from lungtl.tracking.tracker import MlflowTracker, send_unsent, tracked
from lungtl.tracking.unsent import FILE, read_unsent
from tests.tracking import run_folder
from tests.tracking.conftest import Switch
from tests.tracking.run_folder import config, recorded, run_in

pytestmark = pytest.mark.usefixtures("store")
CALLS = 20
"""Requests of a whole run, at least."""


def at_requests(first: int) -> pytest.MarkDecorator:
    """Every third request each time; the others are `exhaustive`."""
    moments = [pytest.param(i, marks=pytest.mark.exhaustive if i % 3 else ()) for i in range(first, CALLS)]
    return pytest.mark.parametrize("calls", moments)


@at_requests(3)
def test_a_run_that_loses_mlflow_at_any_request_is_completed_later(
    data_dir: Path, undisturbed: dict[str, Any], switch: Switch, calls: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The first three requests open the run."""
    folder = data_dir / f"lost at {calls}"
    switch.limit = calls
    lost = run_in(folder, data_dir)
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [("the run continues" in text, "lungtl.sync" in text) for text in warnings] == [(True, False), (False, True)]
    assert read_unsent(folder) is not None
    assert recorded(open_client(None, data_dir), lost.run_id) != undisturbed

    send_unsent(open_client(None, data_dir), folder, publish.run)
    assert recorded(open_client(None, data_dir), lost.run_id) == undisturbed
    assert not (folder / FILE).exists()


def test_a_run_whose_server_is_back_at_the_end_sends_everything_itself(
    data_dir: Path, undisturbed: dict[str, Any], switch: Switch, tmp_path: Path
) -> None:
    lost = MlflowTracker(config(), data_dir, "a run", tmp_path, publish.run)
    with tracked(lost):
        run_folder.begin(lost, tmp_path)
        switch.limit = 0
        run_folder.train(lost, tmp_path)
        run_folder.finish(lost, tmp_path)
        assert read_unsent(tmp_path) is not None
        switch.limit = None
    assert recorded(open_client(None, data_dir), lost.run_id) == undisturbed
    assert not (tmp_path / FILE).exists()


@at_requests(0)
def test_sending_that_is_killed_loses_and_repeats_nothing(
    data_dir: Path, undisturbed: dict[str, Any], switch: Switch, calls: int
) -> None:
    folder = data_dir / f"sending killed at {calls}"
    switch.limit = 8
    lost = run_in(folder, data_dir)
    client = open_client(None, data_dir)
    with pytest.raises(KeyboardInterrupt):
        send_unsent(Switch(calls, KeyboardInterrupt()).wrap(client), folder, publish.run)
    send_unsent(client, folder, publish.run)
    assert recorded(client, lost.run_id) == undisturbed


def test_the_marker_names_run_store_and_end_without_the_password(
    data_dir: Path, switch: Switch, tmp_path: Path
) -> None:
    uri = f"sqlite:///{data_dir / DATABASE}"
    lost = MlflowTracker(config(uri), data_dir, "a run", tmp_path, publish.run)
    switch.limit = 0
    run_folder.begin(lost, tmp_path)
    lost.tags({"sweep": "mine"})
    with pytest.raises(ValueError, match="broken"), tracked(lost):
        raise ValueError("broken")
    unsent = json.loads((tmp_path / FILE).read_text())
    assert unsent["mlflow_run_id"] == lost.run_id
    assert (unsent["tracking_uri"], unsent["experiment"]) == (uri, "tests")
    assert unsent["status"] == "FAILED"
    assert unsent["tags"] == {"lungtl.kind": "run", **unsent["tags"], "sweep": "mine", "lungtl.error": "broken"}
    client = open_client(None, data_dir)
    send_unsent(client, tmp_path, publish.run)
    run = client.get_run(lost.run_id)
    assert (run.info.status, run.info.end_time) == ("FAILED", unsent["end_time"])
    assert (run.data.tags["sweep"], run.data.tags["lungtl.error"]) == ("mine", "broken")


def test_a_missing_file_is_not_a_lost_server(data_dir: Path, tmp_path: Path) -> None:
    run = MlflowTracker(config(), data_dir, "a run", tmp_path, publish.run)
    with pytest.raises(FileNotFoundError):
        run.artifacts(tmp_path / "none")
    run.close("FAILED")
    assert read_unsent(tmp_path) is None


def test_a_killed_run_is_completed_when_it_is_resumed(
    data_dir: Path, undisturbed: dict[str, Any], switch: Switch, tmp_path: Path
) -> None:
    """Killed after it wrote its second epoch; the resumed run repeats that epoch."""
    killed = MlflowTracker(config(), data_dir, "a run", tmp_path, publish.run)
    run_folder.begin(killed, tmp_path)
    switch.limit = 0
    run_folder.train(killed, tmp_path, last=2)
    switch.limit = None
    killed._lock.release()  # as a kill does
    resumed = MlflowTracker(config(), data_dir, "ignored", tmp_path, publish.run, killed.run_id)
    unsent = read_unsent(tmp_path)
    assert unsent is not None
    assert unsent.tags == {}  # those that MLflow missed were sent
    assert open_client(None, data_dir).get_run(resumed.run_id).info.status == "RUNNING"
    with tracked(resumed):
        run_folder.begin(resumed, tmp_path)
        run_folder.train(resumed, tmp_path, first=1)
        run_folder.finish(resumed, tmp_path)
    assert recorded(open_client(None, data_dir), resumed.run_id) == undisturbed


def engine_of(tracker: MlflowTracker) -> Any:
    """The database's connections."""
    return tracker.client._tracking_client.store.engine


def test_a_locked_database_is_waited_for_once(
    tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    run = MlflowTracker(config(), tmp_path, "a run", tmp_path, publish.run)

    @event.listens_for(engine_of(run), "before_cursor_execute", retval=True)
    def shorten_timeout(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> tuple[str, Any]:
        return statement.replace("busy_timeout = 20000", "busy_timeout = 50"), parameters

    with tracked(run):
        run_folder.begin(run, tmp_path)
        other = sqlite3.connect(tmp_path / DATABASE, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        run_folder.train(run, tmp_path)
        other.execute("ROLLBACK")
        run_folder.finish(run, tmp_path)
    (warning,) = (record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert "database is locked" in warning
    assert recorded(run.client, run.run_id) == undisturbed


def test_a_full_disk_is_survived(tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    run = MlflowTracker(config(), tmp_path, "a run", tmp_path, publish.run)
    engine = engine_of(run)
    with tracked(run):
        run_folder.begin(run, tmp_path)
        with engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        large = {f"tag{i}": "x" * 4000 for i in range(20)}
        run.tags(large)
        assert "database or disk is full" in caplog.text
        engine.dispose()  # the next connection has no such limit
        run_folder.train(run, tmp_path)
        run_folder.finish(run, tmp_path)
    found = recorded(run.client, run.run_id)
    found["tags"] = {key: value for key, value in found["tags"].items() if key not in large}
    assert found == undisturbed
    assert run.client.get_run(run.run_id).data.tags["tag19"] == "x" * 4000
