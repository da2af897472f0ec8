"""A training run that loses its MLflow server, and `lungtl.sync` after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lungtl.evaluation.document import flat_metrics
from lungtl.tracking.backend import open_client
from tests.commands.conftest import CLOSED_PORT, QUICK, Lab, Trained
from tests.tracking.mlflow_server import MlflowServer

pytestmark = pytest.mark.slow
EPOCHS = 3


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def lost(lab: Lab, server: MlflowServer) -> Trained:
    """A run whose server was killed when it had just begun."""
    before = set(lab.data_dir.glob("runs/*/run.json"))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(lab.train, f"trainer.max_epochs={EPOCHS}", f"tracking.uri={server.uri}", *QUICK)
        while not training.done() and set(lab.data_dir.glob("runs/*/run.json")) == before:
            time.sleep(0.02)
        server.kill()
    done = training.result()
    return Trained(done, done.folder)


def test_the_run_goes_on_and_says_so_once(lab: Lab, server: MlflowServer, lost: Trained) -> None:
    assert (lost.folder / "metrics.json").is_file()
    assert lost.done.err.count("MLflow is lost") == 1
    assert f"python -m lungtl.sync data_dir={lab.data_dir} tracking.uri={server.uri}" in lost.done.err
    assert "Retrying" not in lost.done.err
    assert "Traceback" not in lost.done.err


def test_sync_needs_the_server(lab: Lab, server: MlflowServer, lost: Trained) -> None:
    assert "cannot be used" in lab.run("sync", f"tracking.uri={server.uri}").complaint()
    assert (lab.data_dir / "unsynced" / f"{lost.run_id}.jsonl").is_file()


def test_sync_sends_the_rest_of_the_run(lab: Lab, server: MlflowServer, lost: Trained) -> None:
    server.start()
    done = lab.run("sync", f"run={lost.folder}", f"tracking.uri={server.uri}")
    assert done.code == 0, done.err
    assert done.out.startswith(f"{lost.run_id} ")
    assert len(done.out.splitlines()) == 1
    client = open_client(server.uri, lab.data_dir)
    run = client.get_run(lost.run_id)
    assert run.info.status == "FINISHED"
    told = flat_metrics(lost.metrics)
    assert told == {name: run.data.metrics[name] for name in told}
    assert [m.step for m in client.get_metric_history(lost.run_id, "val/loss")] == list(range(EPOCHS))
    assert {"metrics.json", "predictions.csv", "checkpoints", "bundle"} <= {
        artifact.path for artifact in client.list_artifacts(lost.run_id)
    }


def test_then_nothing_is_left(lab: Lab, server: MlflowServer, lost: Trained) -> None:
    done = lab.run("sync", f"tracking.uri={server.uri}")
    assert (done.code, done.out) == (0, "")
    assert "MLflow has everything" in done.err
    assert list(Path(lab.data_dir / "unsynced").iterdir()) == []


def test_a_server_that_is_not_there_at_the_start(lab: Lab) -> None:
    message = lab.train(f"tracking.uri={CLOSED_PORT}").complaint()
    assert f"tracking.uri={CLOSED_PORT} cannot be used (no connection)" in message
    assert "tracking=none" in message


def test_there_is_nowhere_to_send_to_without_tracking(lab: Lab) -> None:
    assert "tracking=none" in lab.run("sync", "tracking=none").complaint(code=2)
