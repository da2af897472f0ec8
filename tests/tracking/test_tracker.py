from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from lungtl.config import TrackingConfig
from lungtl.tracking import tracker as tracking
from lungtl.tracking.backend import open_client
from lungtl.tracking.tracker import MlflowTracker, NoTracker, git_tags, tracked

CONFIG = TrackingConfig(enabled=True, uri=None, experiment="tests")


def test_what_is_recorded_is_found_again(tmp_path: Path) -> None:
    tracker = MlflowTracker(CONFIG, tmp_path, "a run")
    assert tracker.run_id is not None
    tracker.params({f"key{i}": i for i in range(150)} | {"long": "x" * 9000})
    tracker.metrics({"loss": 0.5}, step=3)
    tracker.tags({"backbone": "resnet18"})
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "file.txt").write_text("text")
    tracker.artifacts(tmp_path / "folder", "figures")
    tracker.artifacts(tmp_path / "folder" / "file.txt")
    tracker.close("FINISHED")
    client = open_client(None, tmp_path)
    run = client.get_run(tracker.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.params["key149"] == "149"
    assert len(run.data.params) == 151
    assert run.data.metrics == {"loss": 0.5}
    assert run.data.tags["backbone"] == "resnet18"
    assert [a.path for a in client.list_artifacts(tracker.run_id, "figures")] == ["figures/file.txt"]


def test_a_child_names_its_parent_and_a_resumed_run_stays_the_same(tmp_path: Path) -> None:
    parent = MlflowTracker(CONFIG, tmp_path, "sweep")
    child = MlflowTracker(CONFIG, tmp_path, "child", parent=parent.run_id)
    child.close("KILLED")
    again = MlflowTracker(CONFIG, tmp_path, "ignored", run_id=child.run_id)
    assert again.run_id == child.run_id
    run = again.client.get_run(str(child.run_id))
    assert run.data.tags["mlflow.parentRunId"] == parent.run_id
    assert run.info.status == "RUNNING"


class Recorder(NoTracker):
    def __init__(self) -> None:
        self.status = ""

    def close(self, status: str) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_a_run_ends_by_what_happened(error: BaseException | None, status: str) -> None:
    recorder = Recorder()
    if error is None:
        with tracked(recorder):
            pass
    else:
        with pytest.raises(type(error)), tracked(recorder):
            raise error
    assert recorder.status == status


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def git(*arguments: str) -> str:
        options = ("-c", "user.name=a", "-c", "user.email=a@b")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *options, *arguments], check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "--quiet")
    (tmp_path / "file").write_text("one")
    git("add", "file")
    git("commit", "--quiet", "-m", "one")
    monkeypatch.setattr(tracking, "__file__", str(tmp_path / "lungtl" / "tracking" / "tracker.py"))
    assert git_tags() == {"mlflow.source.git.commit": git("rev-parse", "HEAD"), "lungtl.git.changed": "false"}
    (tmp_path / "file").write_text("two")
    assert git_tags()["lungtl.git.changed"] == "true"
