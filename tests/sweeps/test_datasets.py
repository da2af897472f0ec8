"""datasets.json: a run is identified by the content of its dataset, not by its path."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from lungtl.settings import folders
from lungtl.sweeps.datasets import record_datasets
from lungtl.sweeps.plan import compose_grid, plan_runs


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        yield


def write_arrays(folder: Path, offset: int = -100) -> Path:
    """A dataset of four bags with one slice each."""
    folder.mkdir()
    np.savez(folder / "images.npz", images=np.arange(4 * 64, dtype=np.int16).reshape(4, 8, 8) + np.int16(offset))
    write_labels(folder / "labels.csv", [0, 1, 0, 1])
    return folder


def write_labels(path: Path, labels: list[int]) -> Path:
    rows = [f"b{i},p{i},{label}" for i, label in enumerate(labels)]
    path.write_text("\n".join(["id,patient_id,label", *rows]))
    return path


def keys(root: Path, folder: Path, *tables: Path) -> list[str]:
    """Keys of the runs that a call of sweep x over these tables plans."""
    sweep = root / "data" / "sweeps" / "x"
    names = ",".join(map(str, tables or [folder / "labels.csv"]))
    line = ["dataset=arrays", f"dataset.images={folder / 'images.npz'}", f"dataset.table={names}", "workers=1",
            f"data_dir={root / 'data'}", "sweep.name=x", folders.search_path()]  # fmt: skip
    runs = compose_grid(GlobalHydra.instance().config_loader().load_configuration("train", line, RunMode.MULTIRUN))
    assert runs is not None
    sweep.mkdir(parents=True, exist_ok=True)
    record_datasets(sweep, [composed for _, composed in runs])
    return [run.name for run in plan_runs(sweep, runs)]


def recorded(root: Path) -> list[str | None]:
    return list(json.loads((root / "data" / "sweeps" / "x" / "datasets.json").read_text()).values())


def test_a_moved_dataset_makes_no_run_new(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "here")
    before = keys(tmp_path, folder)
    assert keys(tmp_path, folder.rename(tmp_path / "there")) == before
    assert len(set(recorded(tmp_path))) == 1


def test_other_content_makes_a_new_run_at_the_same_and_at_another_path(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "here")
    before = keys(tmp_path, folder)
    other = keys(tmp_path, write_arrays(tmp_path / "there", offset=-99))
    shutil.rmtree(folder)
    changed = keys(tmp_path, write_arrays(folder, offset=-98))
    assert len({*before, *other, *changed}) == 3


def test_two_datasets_in_one_sweep_stay_two_settings(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "here")
    other = write_labels(tmp_path / "other.csv", [1, 0, 1, 0])
    same = write_labels(tmp_path / "same.csv", [0, 1, 0, 1])
    assert len(keys(tmp_path, folder, folder / "labels.csv", other, same)) == 2
    assert len(set(recorded(tmp_path))) == 2


def test_a_dataset_that_cannot_be_prepared_is_identified_by_its_path(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = write_arrays(tmp_path / "here")
    missing = tmp_path / "missing.csv"
    before = keys(tmp_path, folder, folder / "labels.csv", missing)
    assert before[0] != before[1]
    assert "missing.csv" in caplog.text
    assert None in recorded(tmp_path)
    write_labels(missing, [1, 0, 1, 0])
    assert keys(tmp_path, folder, folder / "labels.csv", missing) == before, "sweep.retry=true must find the failed run"


def test_a_dataset_that_is_gone_keeps_its_fingerprint(tmp_path: Path) -> None:
    folder = write_arrays(tmp_path / "here")
    before = keys(tmp_path, folder)
    shutil.rmtree(folder)
    assert keys(tmp_path, folder) == before
