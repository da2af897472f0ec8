from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lungtl.errors import LungtlError
from lungtl.tracking.backend import default_uri, experiment_id, open_client

JOB = """
import sys
from pathlib import Path
from lungtl.config import TrackingConfig
from lungtl.tracking.tracker import MlflowTracker
data_dir = Path(sys.argv[1])
tracker = MlflowTracker(TrackingConfig(enabled=True, uri=None, experiment="e"), data_dir, sys.argv[2])
for step in range(5):
    tracker.metrics({"loss": float(step)}, step)
tracker.close("FINISHED")
"""


def test_telemetry_is_off_before_mlflow_is_imported() -> None:
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"


def test_processes_that_meet_a_fresh_store_lose_nothing(tmp_path: Path) -> None:
    jobs = [subprocess.Popen([sys.executable, "-c", JOB, str(tmp_path), f"job {i}"]) for i in range(3)]
    assert [job.wait(timeout=180) for job in jobs] == [0, 0, 0]
    client = open_client(None, tmp_path)
    runs = client.search_runs([experiment_id(client, "e", None, tmp_path)])
    assert {run.info.run_name for run in runs} == {"job 0", "job 1", "job 2"}
    for run in runs:
        assert [m.value for m in client.get_metric_history(run.info.run_id, "loss")] == [0, 1, 2, 3, 4]


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


def test_an_unreachable_server_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(LungtlError, match=r"tracking\.uri=http://127\.0\.0\.1:9 cannot be used"):
        open_client("http://127.0.0.1:9", tmp_path)


def test_a_deleted_experiment_is_named(tmp_path: Path) -> None:
    client = open_client(None, tmp_path)
    client.delete_experiment(experiment_id(client, "gone", None, tmp_path))
    with pytest.raises(LungtlError, match=r"tracking\.experiment=gone was deleted"):
        experiment_id(client, "gone", None, tmp_path)
