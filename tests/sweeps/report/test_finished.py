from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sweeps.report.finished import Unfinished, find_sweep, read_run, read_runs, run_folders
from lungtl.sweeps.state import State, write_state
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, write_failed, write_run


def finished(folder: Path, **settings: object) -> Path:
    return write_run(folder, bags("test", probabilities(1, 0)), None, settings=settings)


def test_settings_are_the_keys_that_decide_the_result(tmp_path: Path) -> None:
    settings = {
        "dataset": {"root": "/somewhere", "scans": 160},
        "trainer": {"accelerator": "cpu", "workers": 2, "max_epochs": 4},
        "tracking": {"enabled": False},
        "split": {"seed": 3},
        "image": {"windows": [[-600, 1500]], "crop": None},
        "sweep": {"name": "x"},
    }
    assert read_run(finished(tmp_path / "0", **settings)).settings == {
        "dataset.scans": "160",
        "trainer.max_epochs": "4",
        "split.seed": "3",
        "image.windows": "[[-600, 1500]]",
        "image.crop": "null",
    }


def test_choices_are_those_of_the_record_and_overridden_groups(tmp_path: Path) -> None:
    folder = finished(tmp_path / "0", optimizer={"lr": 1}, head={"width": 3})
    record = json.loads((folder / "run.json").read_text())
    overrides = ["aggregator=mean", "+experiments=small", "optimizer=sgd", "head.width=3", "seed=0", "hydra/launcher=x"]
    (folder / "run.json").write_text(json.dumps(record | {"overrides": overrides}))
    assert read_run(folder).choices == {**record["choices"], "experiments": "small", "optimizer": "sgd"}


def test_rows_are_in_the_order_of_the_bags(tmp_path: Path) -> None:
    table = bags("test", probabilities(1, 0))
    run = read_run(write_run(tmp_path / "0", table.iloc[::-1], None))
    assert run.test["bag_id"].tolist() == table["bag_id"].tolist()
    assert run.test["label"].tolist() == LABELS.tolist()


def test_a_bag_id_of_na_is_kept(tmp_path: Path) -> None:
    table = bags("test", probabilities(1, 0)).replace({"bag_id": {"test000": "NA"}})
    assert "NA" in set(read_run(write_run(tmp_path / "0", table, None)).test["bag_id"])


def test_runs_without_results_are_listed(tmp_path: Path) -> None:
    finished(tmp_path / "2")
    finished(tmp_path / "10")
    (finished(tmp_path / "3") / "metrics.json").unlink()
    write_failed(tmp_path / "4", "loss is not finite; lower optimizer.lr")
    pruned = finished(tmp_path / "5")
    (pruned / "metrics.json").unlink()
    (pruned / "pruned.json").write_text("2")
    write_state(pruned, State("finished", 0, (), "val/loss"))  # as it was meant to
    (finished(tmp_path / "6") / "status.json").write_text('{"state": ')  # being written
    (tmp_path / "pooled").mkdir()
    runs, unfinished = read_runs(tmp_path)
    assert [run.name for run in runs] == ["2", "6", "10"]
    described = "seed=0 phantom resnet18 frozen mean"
    assert unfinished == [
        Unfinished("3", described, "not finished"),
        Unfinished("5", described, "pruned"),
        Unfinished("4", "", "failed", "loss is not finite; lower optimizer.lr"),
    ]


def test_runs_are_in_the_order_of_the_sweep(tmp_path: Path) -> None:
    for name, number in (("aaa", 1), ("bbb", 0)):
        write_state(finished(tmp_path / name), State("finished", number, (), "val/loss"))
    assert [folder.name for folder in run_folders(tmp_path)] == ["bbb", "aaa"]


def test_no_run(tmp_path: Path) -> None:
    write_failed(tmp_path / "0", "no")
    with pytest.raises(LungtlError, match="no finished run in"):
        read_runs(tmp_path)


def test_a_run_without_its_predictions(tmp_path: Path) -> None:
    (finished(tmp_path / "0") / "predictions.csv").unlink()
    with pytest.raises(LungtlError, match=r"0 has no predictions\.csv.*rerun"):
        read_runs(tmp_path)


def started(data_dir: Path, name: str, when: int) -> Path:
    folder = data_dir / "sweeps" / name
    folder.mkdir(parents=True)
    (folder / "parent.json").write_text("{}")
    os.utime(folder / "parent.json", (when, when))
    return folder


def test_a_sweep_is_found_by_folder_name_or_age(tmp_path: Path) -> None:
    last, first = started(tmp_path, "20260101", 2_000), started(tmp_path, "lr", 1_000)
    assert find_sweep("lr", tmp_path) == first
    assert find_sweep(str(first), tmp_path / "elsewhere") == first
    assert find_sweep("latest", tmp_path) == last


def test_no_such_sweep(tmp_path: Path) -> None:
    for reference in ("x", "latest"):
        with pytest.raises(UsageError, match=rf"no sweep {reference}: .* none yet; .*train -m"):
            find_sweep(reference, tmp_path)
    started(tmp_path, "lr", 1_000)
    with pytest.raises(UsageError, match=r"no sweep x: .* has 1, the latest is lr"):
        find_sweep("x", tmp_path)
