from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError
from lungtl.tracking import publish
from lungtl.tracking.mlflow_run import Tracker
from lungtl.tracking.tracker import MlflowTracker, SentLater, tracked
from lungtl.tracking.unsent import is_recorded_now, read_unsent
from tests.tracking.run_folder import config

pytestmark = pytest.mark.usefixtures("store")


def test_a_resumed_run_is_running_again(tmp_path: Path) -> None:
    first = MlflowTracker(config(), tmp_path, "its name", tmp_path, publish.run)
    first.close("KILLED")
    again = MlflowTracker(config(), tmp_path, "ignored", tmp_path, publish.run, first.run_id)
    run = again.client.get_run(again.run_id)
    assert (run.info.run_name, run.info.status) == ("its name", "RUNNING")


def test_a_run_that_does_not_exist_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(LungtlError, match=r"cannot open the run: .*not found.*; .*tracking=none"):
        MlflowTracker(config(), tmp_path, "ignored", tmp_path, publish.run, "f" * 32)


class Recorder(Tracker):
    def __init__(self) -> None:
        self.status = ""

    def close(self, status: str) -> None:
        self.status = status


@pytest.mark.parametrize(
    ("error", "status"), [(None, "FINISHED"), (ValueError("broken"), "FAILED"), (KeyboardInterrupt(), "KILLED")]
)
def test_the_status_depends_on_how_the_run_ends(error: BaseException | None, status: str) -> None:
    recorder = Recorder()
    if error is None:
        with tracked(recorder):
            pass
    else:
        with pytest.raises(type(error)), tracked(recorder):
            raise error
    assert recorder.status == status


def test_what_tracking_none_keeps_from_mlflow_can_be_sent_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    later = SentLater(tmp_path, "a1b2", "postgresql://me:secret@host/x", "tests")
    unsent = read_unsent(tmp_path)
    assert unsent is not None
    assert (unsent.mlflow_run_id, is_recorded_now(tmp_path)) == ("a1b2", True)
    later.tags({"lungtl.pruned": "true"})
    later.close("FINISHED")
    unsent = read_unsent(tmp_path)
    assert unsent is not None
    assert (unsent.status, is_recorded_now(tmp_path), unsent.tags) == ("FINISHED", False, {"lungtl.pruned": "true"})
    assert unsent.tracking_uri == "postgresql://***@host/x"
    assert f"lungtl.sync run={tmp_path}" in caplog.text
