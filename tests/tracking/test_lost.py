"""MLflow goes away during a run: the run continues, and MLflow ends up with the same record as without the loss."""

from __future__ import annotations

import json
import logging
import shutil
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException
from sqlalchemy import event

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import SyncConfig
from lungtl.sweeps.parent import publish_sweep, write_parent
from lungtl.sync import run as sync
from lungtl.tracking import publish, tracker
from lungtl.tracking.backend import DATABASE, open_client
from lungtl.tracking.tracker import MlflowTracker, Publish, send_unsent, tracked
from lungtl.tracking.unsent import FILE, Unsent, read_unsent, write_unsent
from tests.tracking import run_folder
from tests.tracking.mlflow_server import MlflowServer
from tests.tracking.run_folder import config, recorded, run_in

pytestmark = pytest.mark.usefixtures("store")
CALLS = 20
"""Requests of a whole run, at least."""


class Switch:
    """Lets a number of requests reach MLflow; then raises for each until `limit` is None."""

    def __init__(self, limit: int | None, error: BaseException) -> None:
        self.limit, self.error, self.calls = limit, error, 0

    def wrap(self, client: Any) -> Any:
        switch = self

        class Client:
            def __getattr__(self, name: str) -> Any:
                if switch.limit is not None and switch.calls >= switch.limit:
                    raise switch.error
                switch.calls += 1
                return getattr(client, name)

        return Client()


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Of every client that trackers open."""
    switch = Switch(None, MlflowException("no connection"))
    monkeypatch.setattr(tracker, "open_client", lambda *arguments: switch.wrap(open_client(*arguments)))
    return switch


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(empty_store, folder)
    return folder


@pytest.fixture(scope="module")
def undisturbed(data_dir: Path) -> dict[str, Any]:
    whole = run_in(data_dir / "undisturbed", data_dir)
    assert not (data_dir / "undisturbed" / FILE).exists()
    return recorded(whole.client, whole.run_id)


def sync_config(data_dir: Path, uri: str | None = None, run: str | None = None) -> SyncConfig:
    return SyncConfig(data_dir=data_dir, workers=1, run=run, tracking=config(uri))


@pytest.mark.parametrize("calls", range(3, CALLS))
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


@pytest.mark.parametrize("calls", range(CALLS))
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
    assert (unsent["status"], unsent["pid"]) == ("FAILED", None)
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


class TestSync:
    """`python -m lungtl.sync`."""

    @pytest.fixture
    def lost(self, tmp_path: Path, switch: Switch) -> MlflowTracker:
        """A finished run that lost MLflow."""
        (tmp_path / "runs").mkdir()
        switch.limit = 8
        return run_in(tmp_path / "runs" / "lost", tmp_path)

    def test_every_marked_run_is_sent_once(
        self, lost: MlflowTracker, tmp_path: Path, undisturbed: dict[str, Any], capsys: pytest.CaptureFixture[str]
    ) -> None:
        sync(sync_config(tmp_path))
        assert capsys.readouterr().out == f"{lost.run_id} {tmp_path / 'runs' / 'lost'}\n"
        assert recorded(open_client(None, tmp_path), lost.run_id) == undisturbed
        sync(sync_config(tmp_path))
        assert capsys.readouterr().out == ""
        assert recorded(open_client(None, tmp_path), lost.run_id) == undisturbed

    def test_a_run_can_be_named(self, lost: MlflowTracker, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        for _ in range(2):
            sync(sync_config(tmp_path, run=lost.run_id[:8]))
        assert capsys.readouterr().out.splitlines() == [f"{lost.run_id} {tmp_path / 'runs' / 'lost'}"]

    def test_a_running_process_is_left_alone(
        self, lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "runs" / "lost"
        write_unsent(folder, Unsent(lost.run_id, None, "tests"))  # of this process
        with caplog.at_level(logging.INFO):
            sync(sync_config(tmp_path))
        assert "still runs" in caplog.text
        assert "MLflow has everything but 1 run that did not end" in caplog.text
        with pytest.raises(LungtlError, match="still runs"):
            sync(sync_config(tmp_path, run=str(folder)))
        assert (folder / FILE).is_file()

    def test_a_process_of_another_machine_is_left_alone_unless_its_run_is_named(
        self, lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = tmp_path / "runs" / "lost"
        unsent = read_unsent(folder)
        assert unsent is not None
        write_unsent(folder, replace(unsent, host="another machine", pid=7))
        with caplog.at_level(logging.INFO):
            sync(sync_config(tmp_path))
        assert "process 7 on another machine may still run" in caplog.text
        assert f"run={folder}" in caplog.text
        sync(sync_config(tmp_path, run=str(folder)))
        assert read_unsent(folder) is None

    def test_a_kill_while_mlflow_has_everything_is_recorded_too(self, tmp_path: Path) -> None:
        whole = MlflowTracker(config(), tmp_path, "killed", tmp_path / "evaluations" / "killed", publish.evaluation)
        unsent = read_unsent(tmp_path / "evaluations" / "killed")
        assert unsent is not None
        assert unsent.running
        write_unsent(tmp_path / "evaluations" / "killed", replace(unsent, pid=2**22 + 1))
        sync(sync_config(tmp_path))
        assert open_client(None, tmp_path).get_run(whole.run_id).info.status == "KILLED"
        assert read_unsent(tmp_path / "evaluations" / "killed") is None

    def test_a_killed_process_is_recorded_as_such(self, lost: MlflowTracker, tmp_path: Path) -> None:
        folder = tmp_path / "runs" / "lost"
        unsent = read_unsent(folder)
        assert unsent is not None
        write_unsent(folder, replace(unsent, pid=2**22 + 1, status=None, end_time=None))  # beyond Linux's largest id
        sync(sync_config(tmp_path))
        assert open_client(None, tmp_path).get_run(lost.run_id).info.status == "KILLED"

    def test_what_mlflow_refuses_stays_marked(
        self, lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        client = open_client(None, tmp_path)
        client.delete_run(lost.run_id)
        with pytest.raises(LungtlError):
            sync(sync_config(tmp_path))
        assert lost.run_id in caplog.text
        assert (tmp_path / "runs" / "lost" / FILE).is_file()
        client.restore_run(lost.run_id)
        sync(sync_config(tmp_path))

    def test_an_evaluation_and_a_sweep_are_sent_too(self, tmp_path: Path, switch: Switch) -> None:
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
        self, lost: MlflowTracker, tmp_path: Path, caplog: pytest.LogCaptureFixture
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
class TestServer:
    """A real server, killed; tests/commands/test_tracking_lost.py does the same with the commands."""

    def test_a_killed_server_stops_no_run(
        self, server: MlflowServer, tmp_path: Path, undisturbed: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
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
