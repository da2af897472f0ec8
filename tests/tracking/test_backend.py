from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path

import pytest
from sqlalchemy import make_url

from lungtl.settings.credentials import check_credentials, has_password, hide_password
from lungtl.settings.errors import LungtlError, Unreachable, UsageError
from lungtl.settings.sections import TrackingConfig
from lungtl.tracking import backend, publish
from lungtl.tracking.backend import DATABASE, default_uri, experiment_id, open_client, sqlite_file
from lungtl.tracking.tracker import MlflowTracker
from lungtl.tracking.unsent import FILE


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def _log_five_steps(data_dir: Path, name: str) -> None:
    (data_dir / name).mkdir()
    config = TrackingConfig(enabled=True, uri=None, experiment="e")
    tracker = MlflowTracker(config, data_dir, name, data_dir / name, publish.run)
    for step in range(5):
        tracker.metrics({"loss": float(step)}, step)
    tracker.close("FINISHED")


def test_concurrent_processes_create_one_store_and_lose_nothing(tmp_path: Path) -> None:
    importlib.import_module("mlflow.store.tracking.sqlalchemy_store")  # once, not in each process
    names = [f"run {number}" for number in range(4)]
    processes = [get_context("fork").Process(target=_log_five_steps, args=(tmp_path, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(180)
    assert [process.exitcode for process in processes] == [0, 0, 0, 0]
    client = open_client(None, tmp_path)
    runs = client.search_runs([experiment_id(client, "e", None, tmp_path)])
    assert sorted(run.info.run_name for run in runs) == names
    for run in runs:
        assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4]
    assert list(tmp_path.glob(f"*/{FILE}")) == []


def test_the_default_store_and_its_artifacts_are_in_the_data_folder(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    found = client.get_experiment(experiment_id(client, "mine", None, tmp_path))
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert (tmp_path / "mlflow.db").is_file()
    assert found.artifact_location == (tmp_path / "mlflow-artifacts").as_uri()


def test_the_artifacts_of_a_remote_database_are_in_the_data_folder(tmp_path: Path, empty_store: Path) -> None:
    shutil.copy(empty_store, tmp_path / "elsewhere.db")
    client = open_client(f"sqlite:///{tmp_path}/elsewhere.db", tmp_path)
    found = client.get_experiment(experiment_id(client, "e", "postgresql://host/x", tmp_path / "data"))
    assert found.artifact_location == (tmp_path / "data" / "mlflow-artifacts").as_uri()


def test_a_file_that_is_no_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, just some text that is long enough" * 10)
    with pytest.raises(Unreachable, match=r"tracking\.uri=sqlite.*; .*tracking=none"):
        open_client(f"sqlite:///{tmp_path}/x.db", tmp_path)


def test_an_unreachable_server_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(Unreachable, match=r"tracking\.uri=http://127\.0\.0\.1:9 .*no connection; .*tracking=none"):
        open_client("http://127.0.0.1:9", tmp_path)


def test_a_server_that_never_answers_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://someone:secret@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"no answer within 0.2 s; .*tracking=none") as caught:
            open_client(uri, tmp_path)
    assert "http://***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.fixture
def refusing(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that answers each request with one status."""

    class Refuse(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:  # the base class calls it by this name
            self.send_response(request.param)
            self.end_headers()

        do_GET = do_POST = do_HEAD  # noqa: N815

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuse) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("refusing", "remedies"),
    [(401, ("refused the login", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "tracking=none")),
     (403, ("denied access", "permission", "tracking=none"))],
    indirect=["refusing"],
)  # fmt: skip
def test_a_refused_login_names_its_remedy(refusing: str, remedies: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(Unreachable) as caught:
        open_client(refusing, tmp_path)
    for remedy in (f"tracking.uri={refusing}", *remedies):
        assert remedy in str(caught.value)


def test_an_unreachable_postgresql_server_is_one_line(tmp_path: Path) -> None:
    has_driver = any(importlib.util.find_spec(name) for name in ("psycopg", "psycopg2"))
    problem = r"cannot be used: .*refused" if has_driver else r"requires the package psycopg\w*; pip install it"
    with pytest.raises(LungtlError, match=rf"tracking\.uri=postgresql://\*\*\*@127\.0\.0\.1:9/x {problem}"):
        open_client("postgresql://u:secret@127.0.0.1:9/x", tmp_path)


@pytest.mark.parametrize("uri", ["http://u:secret@host/x", "postgresql://u:p@secret@host/x@y", "http://secret@host"])
def test_passwords_are_hidden(uri: str) -> None:
    hidden = hide_password(f"cannot open {uri}: refused")
    assert "secret" not in hidden
    assert hide_password(uri).partition("://")[2] in ("***@host/x", "***@y", "***@host")
    assert hide_password(f"{hidden}; was {hidden}") == f"{hidden}; was {hidden}"  # not once more, to the last @
    assert has_password(uri)


@pytest.mark.parametrize("uri", ["postgresql://me@host:5432/x", "http://host:5000", "sqlite:////home/me:x@lab/y.db"])
def test_what_is_no_password_is_not_hidden(uri: str) -> None:
    assert hide_password(uri) == uri
    assert not has_password(uri)


def test_paths_of_a_local_database_are_not_hidden() -> None:
    assert hide_password("sqlite:////home/me@lab/mlflow.db") == "sqlite:////home/me@lab/mlflow.db"
    check_credentials("sqlite:////home/me@lab/a b/mlflow.db")


@pytest.mark.parametrize("password", ["pa@ss", "pa/ss", "pa ss", "pa?ss", "pa#ss"])
def test_a_password_that_a_driver_would_cut_is_refused_before_it_is_used(password: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="must be percent-encoded") as caught:
        open_client(f"postgresql://me:{password}@127.0.0.1:9/x", tmp_path)
    assert "ss@" not in str(caught.value)
    assert "pa" not in str(caught.value).partition("***")[0]
    check_credentials("postgresql://me:pa%40ss@127.0.0.1:9/x")


@pytest.mark.usefixtures("store")
def test_a_deleted_experiment_names_its_key(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    client.delete_experiment(experiment_id(client, "gone", None, tmp_path))
    with pytest.raises(LungtlError, match=r"tracking\.experiment=gone was deleted"):
        experiment_id(client, "gone", None, tmp_path)


def test_a_kill_while_the_database_is_made_leaves_a_usable_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its own name the database is whole or absent."""
    (tmp_path / f"{DATABASE}.new-0").write_bytes(b"half of a schema" * 99)  # left by a killed process

    def killed(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mlflow.store.db.utils._initialize_tables", killed)
        with pytest.raises(KeyboardInterrupt):
            open_client(None, tmp_path)
    assert not (tmp_path / DATABASE).exists()
    assert open_client(None, tmp_path).get_experiment_by_name("Default") is not None
    assert [path.name for path in tmp_path.glob("*.new-*")] == []


@pytest.mark.parametrize("name", ["my%20data", "what?", "a#b", "two words", "O'Brien", "新"])
def test_a_store_can_be_below_any_folder(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    uri = default_uri(folder)
    assert sqlite_file(uri) == folder / "mlflow.db"
    assert make_url(uri).database == str(folder / "mlflow.db")


def test_other_stores_have_no_file() -> None:
    assert sqlite_file("postgresql://host/x") is None
    assert sqlite_file("sqlite:////a/b.db?timeout=3") == Path("/a/b.db")
