"""A training run that loses its MLflow server, and `lungtl.sync` after it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from lungtl.tracking.backend import open_client
from tests.commands.conftest import QUICK, Lab, Trained, read_json
from tests.forked import CLOSED_PORT
from tests.tracking.mlflow_server import Door, MlflowServer
from tests.tracking.run_folder import recorded

pytestmark = pytest.mark.slow
EPOCHS = 2


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    """Shut, it looks like a server that was killed: tests/tracking/test_sync.py kills one."""
    server = MlflowServer(tmp_path_factory.mktemp("server"))
    server.start()
    door = Door(server.port)
    door.open()
    yield door
    door.shut()
    server.kill()


def train(lab: Lab, server: Door) -> Trained:
    done = lab.train(f"trainer.max_epochs={EPOCHS}", f"tracking.uri={server.uri}", *QUICK)
    return Trained(done, done.folder)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab, server: Door) -> Trained:
    return train(lab, server)


@pytest.fixture(scope="module")
def lost(lab: Lab, server: Door, undisturbed: Trained) -> Trained:
    """A run that lost its server as soon as the run had written its record."""
    before = set(lab.data_dir.glob("runs/*/run.json"))
    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, lab, server)
        while not training.done() and set(lab.data_dir.glob("runs/*/run.json")) == before:
            time.sleep(0.02)
        server.shut()
    return training.result()


def test_training_continues_and_warns_once(lab: Lab, lost: Trained) -> None:
    assert (lost.folder / "metrics.json").is_file()
    assert lost.done.err.count("the run continues") == 1
    assert lost.done.err.count("-m lungtl.sync\n") == 1  # its data_dir is the default one
    assert "Retrying" not in lost.done.err
    assert "Traceback" not in lost.done.err


def test_sync_needs_the_server(lab: Lab, server: Door, lost: Trained) -> None:
    done = lab.run("sync")
    assert done.complaint().startswith("error: 1 of 1 run not sent")
    assert f"tracking.uri={server.uri} cannot be used" in done.err
    assert read_json(lost.folder / "unsent.json")["mlflow_run_id"] == lost.run_id


def test_sync_completes_the_run(lab: Lab, server: Door, lost: Trained, undisturbed: Trained) -> None:
    server.open()
    done = lab.run("sync", f"run={lost.folder}")
    assert (done.code, done.out) == (0, f"{lost.run_id} {lost.folder}\n"), done.err
    client = open_client(server.uri, lab.data_dir)
    found = recorded(client, lost.run_id)
    assert found == recorded(client, undisturbed.run_id)
    assert [step for step, _ in found["metrics"]["val/loss"]] == list(range(1, EPOCHS + 1))


def test_a_server_stores_the_artifacts_of_its_experiments(lab: Lab, server: Door, lost: Trained) -> None:
    artifacts = open_client(server.uri, lab.data_dir).get_run(lost.run_id).info.artifact_uri
    assert artifacts.startswith("mlflow-artifacts:/")


def test_then_nothing_is_left(lab: Lab, lost: Trained) -> None:
    done = lab.run("sync")
    assert (done.code, done.out) == (0, "")
    assert "MLflow has everything" in done.err
    assert not (lost.folder / "unsent.json").exists()


def test_a_server_that_is_not_there_at_the_start(lab: Lab) -> None:
    message = lab.train(f"tracking.uri={CLOSED_PORT}").complaint()
    assert f"tracking.uri={CLOSED_PORT} cannot be used: no connection" in message
    assert "tracking=none" in message


def test_there_is_nowhere_to_send_to_without_tracking(lab: Lab) -> None:
    assert "tracking=none" in lab.run("sync", "tracking=none").complaint(code=2)
