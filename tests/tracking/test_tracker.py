from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrackingConfig
from lungtl.tracking.backend import open_client
from lungtl.tracking.tracker import MlflowTracker, NoTracker, tracked

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


def test_a_run_that_goes_on_tells_no_epoch_twice(tmp_path: Path) -> None:
    tracker = MlflowTracker(CONFIG, tmp_path, "killed after it told epoch 1")
    for epoch, loss in enumerate([1.0, 0.5]):
        tracker.epoch({"loss": loss}, epoch)
    again = MlflowTracker(CONFIG, tmp_path, "ignored", run_id=tracker.run_id)
    run = again.client.get_run(str(again.run_id))
    assert (run.info.run_name, run.info.status) == ("killed after it told epoch 1", "RUNNING")
    again.epoch({"loss": 0.5, "new": 7.0}, 1)
    again.epoch({"loss": 0.25}, 2)
    again.close("FINISHED")
    history = again.client.get_metric_history(str(again.run_id), "loss")
    assert [(m.step, m.value) for m in history] == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert again.client.get_run(str(again.run_id)).data.metrics["new"] == 7.0


def test_a_run_that_is_gone_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"does not open the run .*not found.*tracking=none"):
        MlflowTracker(CONFIG, tmp_path, "ignored", run_id="f" * 32)


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
