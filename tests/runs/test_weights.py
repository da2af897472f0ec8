"""Weights of an earlier run must not have seen the test patients."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lungtl.data.splits import save_split, split_fingerprint
from lungtl.runs.folder import BUNDLE, SPLIT
from lungtl.runs.record import check_monitor, check_weights_patients
from lungtl.settings.errors import UsageError


def split_of(**sides: str) -> pd.DataFrame:
    """Patients by side, one letter each, two bags of each patient."""
    rows = [(f"{p}{k}", p, 5.0, k, side) for side, patients in sides.items() for p in patients for k in (0, 1)]
    table = pd.DataFrame(rows, columns=["bag_id", "patient_id", "diameter_mm", "label", "split"])
    return table.sort_values("bag_id", ignore_index=True)


EARLIER = split_of(train="abcd", val="ef", test="gh")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / BUNDLE).mkdir(parents=True)
    save_split(EARLIER, folder / SPLIT)
    return folder


@pytest.mark.parametrize("part", ["", BUNDLE])
@pytest.mark.parametrize(
    ("now", "seen"),
    [
        (split_of(train="bcde", val="fg", test="ah"), 1),  # a trained
        (split_of(train="abcd", val="gh", test="ef"), 2),  # e and f chose the epoch
        (split_of(train="abcx", val="efg", test="hyz"), 0),  # h was only tested, y and z are new
    ],
)
def test_test_patients_that_trained_the_weights_or_chose_their_epoch_are_refused(
    run: Path, part: str, now: pd.DataFrame, seen: int, caplog: pytest.LogCaptureFixture
) -> None:
    weights = str(run / part)
    if seen:
        said = rf"weights={weights}: {seen} of this run's 2 test patients trained these .*; use the dataset"
        with pytest.raises(UsageError, match=said):
            check_weights_patients(weights, split_fingerprint(EARLIER), now)
    else:
        check_weights_patients(weights, split_fingerprint(EARLIER), now)
    assert not caplog.records


def test_a_home_folder_is_expanded(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(run.parent))
    with pytest.raises(UsageError, match="weights=~/run: 1 of"):
        check_weights_patients("~/run", split_fingerprint(EARLIER), split_of(train="bc", val="d", test="a"))


@pytest.mark.parametrize("left", ["nothing", "another run's split"])
def test_of_a_bundle_alone_another_split_is_a_warning(run: Path, left: str, caplog: pytest.LogCaptureFixture) -> None:
    other = split_of(train="bcde", val="fg", test="ah")
    (run / SPLIT).unlink()
    if left != "nothing":
        save_split(split_of(train="xy", val="z", test="a"), run / SPLIT)
    check_weights_patients(str(run / BUNDLE), split_fingerprint(EARLIER), other)
    assert "may have trained on this run's test patients" in caplog.text


def test_the_same_split_and_weights_of_no_run_are_as_they_should_be(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    check_weights_patients(str(run), split_fingerprint(EARLIER), EARLIER)
    check_weights_patients("hub", "", split_of(train="bcde", val="fg", test="ah"))
    assert not caplog.records


def test_an_undefined_monitor_is_refused_before_training() -> None:
    split = EARLIER
    check_monitor("val/auroc", split)
    alike = split[(split["split"] != "val") | (split["label"] == 0)]
    with pytest.raises(UsageError, match=r"trainer.monitor=val/auroc is undefined: all validation cases have label 0"):
        check_monitor("val/auroc", alike)
    check_monitor("val/loss", alike)
