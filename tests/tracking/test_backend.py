from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.tracking import backend
from lungtl.tracking.backend import default_uri, experiment_id, open_client
from lungtl.tracking.spool import unsynced

# so many processes that begin together, all imports done; one that raises leaves with its traceback
JOBS = """
import os
import sys
from pathlib import Path
import mlflow.store.tracking.sqlalchemy_store
from lungtl.settings.schema import TrackingConfig
from lungtl.tracking.tracker import MlflowTracker
data_dir, started = Path(sys.argv[1]), []
for name in sys.argv[2:]:
    started.append(os.fork())
    if started[-1] == 0:
        tracker = MlflowTracker(TrackingConfig(enabled=True, uri=None, experiment="e"), data_dir, name)
        for step in range(5):
            tracker.metrics({"loss": float(step)}, step)
        tracker.close("FINISHED")
        os._exit(0)
sys.exit(any([os.waitpid(child, 0)[1] for child in started]))
"""


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


@pytest.mark.slow
def test_processes_that_meet_a_fresh_store_and_log_at_once_lose_nothing(tmp_path: Path) -> None:
    names = [f"run {number}" for number in range(8)]
    done = subprocess.run(
        [sys.executable, "-c", JOBS, str(tmp_path), *names], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    client = open_client(None, tmp_path)
    runs = client.search_runs([experiment_id(client, "e", None, tmp_path)])
    assert sorted(run.info.run_name for run in runs) == names
    for run in runs:
        assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4]
    assert unsynced(tmp_path) == []


def test_the_default_store_and_its_artifacts_lie_in_the_data_folder(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    found = client.get_experiment(experiment_id(client, "mine", None, tmp_path))
    assert default_uri(tmp_path) == f"sqlite:///{tmp_path}/mlflow.db"
    assert (tmp_path / "mlflow.db").is_file()
    assert found.artifact_location == (tmp_path / "mlflow-artifacts").as_uri()


def test_a_store_that_is_none_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"not a database, just some text that is long enough" * 10)
    with pytest.raises(LungtlError, match=r"tracking\.uri=sqlite.*cannot be used.*tracking=none"):
        open_client(f"sqlite:///{tmp_path}/x.db", tmp_path)


def test_an_unreachable_server_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"tracking\.uri=http://127\.0\.0\.1:9 cannot be used \(no connection\)"):
        open_client("http://127.0.0.1:9", tmp_path)


def test_a_server_that_never_answers_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "ANSWER_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        uri = f"http://someone:secret@127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(LungtlError, match=r"no answer within 0.2 s.*tracking=none") as caught:
            open_client(uri, tmp_path)
    assert "http://***@127.0.0.1" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_postgresql_server_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    problem = r"needs the package psycopg\w*; pip install it" if _no_driver() else r"cannot be used \(.*refused"
    with pytest.raises(LungtlError, match=rf"tracking\.uri=postgresql://\*\*\*@127\.0\.0\.1:9/x {problem}"):
        open_client("postgresql://u:secret@127.0.0.1:9/x", tmp_path)


def _no_driver() -> bool:
    return not any(importlib.util.find_spec(name) for name in ("psycopg", "psycopg2"))


def test_a_database_elsewhere_has_its_artifacts_in_the_data_folder(tmp_path: Path) -> None:
    client = open_client(f"sqlite:///{tmp_path}/elsewhere.db", tmp_path)
    found = client.get_experiment(experiment_id(client, "e", "postgresql://host/x", tmp_path / "data"))
    assert found.artifact_location == (tmp_path / "data" / "mlflow-artifacts").as_uri()


def test_a_deleted_experiment_is_named(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    client.delete_experiment(experiment_id(client, "gone", None, tmp_path))
    with pytest.raises(LungtlError, match=r"tracking\.experiment=gone was deleted"):
        experiment_id(client, "gone", None, tmp_path)
