from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from lungtl.runs.epochs import EpochLines, duration
from lungtl.runs.log import LOG, logged, repeats_omitted
from lungtl.settings.errors import LungtlError

log = logging.getLogger("lungtl.test")


@pytest.mark.parametrize("quiet", [False, True])
def test_the_log_has_what_a_quiet_run_does_not_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quiet: bool
) -> None:
    console = io.StringIO()
    monkeypatch.setattr(sys, "stderr", console)
    monkeypatch.setattr(logging.getLogger(), "handlers", [logging.StreamHandler(console)])
    with logged(tmp_path, quiet=quiet):
        log.debug("a detail")
        log.info("an epoch")
        log.warning("a warning")
    log.warning("afterwards")
    assert console.getvalue().splitlines() == [*([] if quiet else ["an epoch"]), "a warning", "afterwards"]
    lines = (tmp_path / LOG).read_text().splitlines()
    assert [line.split(" ", 3)[2:] for line in lines] == [
        ["DEBUG", "a detail"], ["INFO", "an epoch"], ["WARNING", "a warning"]
    ]  # fmt: skip


def test_the_error_that_ends_a_run_is_logged_and_a_resumed_run_appends(tmp_path: Path) -> None:
    with pytest.raises(LungtlError), logged(tmp_path):
        raise LungtlError("no epoch is usable")
    with pytest.raises(ZeroDivisionError), logged(tmp_path):
        _ = 1 / 0
    text = (tmp_path / LOG).read_text()
    assert "ERROR no epoch is usable\n" in text
    assert text.count("Traceback") == 1
    assert text.rstrip().endswith("ZeroDivisionError: division by zero")


def test_what_all_members_of_an_ensemble_log_is_one_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with repeats_omitted(log.name):
        for n in (1, 2, 1, 1):
            log.info("features %d", n)
    log.info("features 1")
    assert caplog.messages == ["features 1", "features 2", "features 1"]


def test_a_line_for_each_epoch(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    caplog.set_level(logging.INFO)
    clock = iter([100.0, 112.0, 136.0])
    monkeypatch.setattr("lungtl.runs.epochs.time.monotonic", lambda: next(clock))
    lines = EpochLines(40, done=2)
    lines.ended(3, {"train/loss": 0.5234, "val/loss": 0.48, "val/auroc": 0.83, "lr": 1e-3})
    lines.ended(4, {"val/loss": 0.5})
    assert caplog.messages == [
        "epoch 3/40  train loss 0.523  val loss 0.480  val AUROC 0.830  12 s  left 7:24",
        "epoch 4/40  val loss 0.500  24 s  left 10:48",
    ]
    assert lines.done == 4


@pytest.mark.parametrize(("seconds", "text"), [(0.2, "0:00"), (59.6, "1:00"), (450, "7:30"), (4050, "1:07:30")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text
