from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrackingConfig
from lungtl.tracking import entries
from lungtl.tracking.backend import experiment_id, open_client
from lungtl.tracking.spool import Spool, send_all, unsynced
from lungtl.tracking.tracker import MlflowTracker


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def client(store: Path) -> Any:
    return open_client(None, store)


@pytest.fixture
def run_id(client: Any, store: Path) -> str:
    return str(client.create_run(experiment_id(client, "spool", None, store)).info.run_id)


@pytest.fixture
def spool(tmp_path: Path, run_id: str) -> Spool:
    """A run that lost everything after its start."""
    (tmp_path / "metrics.json").write_text("{}")
    spool = Spool(tmp_path, run_id)
    spool.take()
    spool.append(entries.params({"seed": 3, "long": "x" * 9000}))
    spool.append(entries.tags({"backbone": "resnet18"}))
    for step in range(3):
        spool.append(entries.metrics({"loss": 1.0 / (step + 1), "auroc": float("nan")}, step))
    spool.append(entries.artifacts(tmp_path / "metrics.json", "test"))
    spool.append(entries.end("FINISHED"))
    spool.leave()
    return spool


class CutOff:
    """A client whose process dies when it asks for one thing too many."""

    def __init__(self, client: Any, calls: int) -> None:
        self._client, self._calls = client, calls

    def __getattr__(self, name: str) -> Any:
        if self._calls == 0:
            raise KeyboardInterrupt
        self._calls -= 1
        return getattr(self._client, name)


def check_whole(client: Any, run_id: str) -> None:
    run = client.get_run(run_id)
    assert run.data.params == {"seed": "3", "long": "x" * 6000}
    assert run.data.tags["backbone"] == "resnet18"
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(0, 1.0), (1, 0.5), (2, 1 / 3)]
    assert len(client.get_metric_history(run_id, "auroc")) == 3
    assert [artifact.path for artifact in client.list_artifacts(run_id, "test")] == ["test/metrics.json"]
    assert run.info.status == "FINISHED"


def test_what_was_kept_is_sent_with_its_own_times_and_forgotten(client: Any, spool: Spool, tmp_path: Path) -> None:
    measured = [entry["ms"] for entry in spool.read() if entry["kind"] == "metrics"]
    ended = spool.read()[-1]["ms"]
    assert [one.run_id for one in unsynced(tmp_path)] == [spool.run_id]
    assert send_all(spool, client) == 7
    check_whole(client, spool.run_id)
    assert [m.timestamp for m in client.get_metric_history(spool.run_id, "loss")] == measured
    assert client.get_run(spool.run_id).info.end_time == ended
    assert unsynced(tmp_path) == []
    assert list(spool.path.parent.iterdir()) == []


@pytest.mark.parametrize("calls", range(7))
def test_a_sending_that_was_cut_off_loses_and_doubles_nothing(client: Any, spool: Spool, calls: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        send_all(spool, CutOff(client, calls))  # type: ignore[arg-type]
    assert send_all(spool, client) == 7
    check_whole(client, spool.run_id)


def test_the_last_line_of_a_killed_process_is_no_entry(client: Any, spool: Spool) -> None:
    with spool.path.open("a") as file:
        file.write(json.dumps(entries.metrics({"loss": 9.0}, 3))[:-5])
    assert send_all(spool, client) == 7
    check_whole(client, spool.run_id)


def test_what_mlflow_refuses_stays(client: Any, spool: Spool) -> None:
    client.delete_run(spool.run_id)
    with pytest.raises(LungtlError, match=r"did not take the params .*'active' state.*; mend that"):
        send_all(spool, client)
    client.restore_run(spool.run_id)
    assert send_all(spool, client) == 7
    check_whole(client, spool.run_id)


def test_an_artifact_that_is_gone_is_said(
    client: Any, spool: Spool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "metrics.json").unlink()
    with caplog.at_level(logging.WARNING):
        send_all(spool, client)
    assert f"{tmp_path / 'metrics.json'} is gone" in caplog.text
    assert client.get_run(spool.run_id).info.status == "FINISHED"


def test_a_run_that_is_still_keeping_entries_is_left_alone(client: Any, spool: Spool) -> None:
    spool.take()
    with pytest.raises(LungtlError, match="in use by another process"):
        send_all(Spool(spool.path.parents[1], spool.run_id), client)
    spool.leave()
    assert send_all(spool, client) == 7


def test_what_a_run_is_told_while_its_entries_are_sent_is_kept_after_that(
    client: Any, store: Path, run_id: str
) -> None:
    """Not appended to the file that the sender is about to delete."""
    tracker = MlflowTracker(TrackingConfig(enabled=True, uri=None, experiment="spool"), store, "a run", run_id=run_id)
    sender = Spool(store, run_id)
    sender.take()
    sender.append(entries.metrics({"loss": 1.0}, 0))
    with ThreadPoolExecutor() as pool:
        telling = pool.submit(tracker.metrics, {"loss": 0.5}, 1)
        with pytest.raises(TimeoutError):
            telling.result(timeout=0.3)
        sender.send(client)
        sender.leave()
        telling.result(timeout=10)
    tracker.close("FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(run_id, "loss")] == [(0, 1.0), (1, 0.5)]
    assert unsynced(store) == []


def test_a_run_that_is_told_something_by_another_process_does_not_make_it_wait(store: Path, run_id: str) -> None:
    own = Spool(store, run_id)
    own.take()
    own.append(entries.metrics({"loss": 1.0}, 0))
    config = TrackingConfig(enabled=True, uri=None, experiment="spool")
    other = MlflowTracker(config, store, "a run", run_id=run_id, reopen=False)
    with pytest.raises(LungtlError, match="in use by another process"):
        other.metrics({"loss": 0.5}, 1)
    assert len(own.read()) == 1
    own.leave()
    own.path.unlink()
