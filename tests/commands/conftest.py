"""A tiny dataset and the real commands on it, each its own process; what several tests read is run once a session."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.tracking.backend import open_client
from tests.dicom_files import truncate, write_series
from tests.forked import Forks, isolated

N_SERIES = 24
N_SLICES = 5
MODEL = ["backbone.name=test_resnet.r160_in1k", "backbone.weights=none", "image.size=32", "trainer.accelerator=cpu"]
QUICK = ["evaluation.untrained=false", "evaluation.figures=false", "evaluation.resamples=20"]
"""Of a run whose evaluation is not what a test looks at."""


def uid(patient: int) -> str:
    """SeriesInstanceUID of a patient's one scan; odd patients are positive."""
    return f"1.2.826.0.1.3680043.8.498.{100 + patient}"


@dataclass(frozen=True)
class Done:
    """A finished command."""

    code: int
    out: str
    err: str

    @property
    def folder(self) -> Path:
        """The one line of standard output."""
        assert self.code == 0, self.err
        assert len(self.out.splitlines()) == 1, self.out
        return Path(self.out.rstrip("\n"))

    def complaint(self, code: int = 1) -> str:
        """The error's one line; asserts that the command failed as it should."""
        assert self.code == code, self.err
        assert self.out == ""
        assert "Traceback" not in self.err
        last = self.err.rstrip().splitlines()[-1]
        assert last.startswith("error: ")
        assert self.err.count("error: ") == 1
        assert ";" in last, f"it does not say what to do: {last}"
        return last


@dataclass(frozen=True)
class Lab:
    """A folder with a DICOM dataset, its table and a data_dir, and what runs the commands on them."""

    root: Path
    forks: Forks
    data: str = "data"

    @property
    def data_dir(self) -> Path:
        return self.root / self.data

    @property
    def scans(self) -> Path:
        return self.root / "scans"

    def start(self, command: str, *arguments: str) -> subprocess.Popen[str]:
        """`python -m lungtl.COMMAND ARGUMENTS data_dir=...`, outside the checkout and without a network."""
        return subprocess.Popen(
            [sys.executable, "-m", f"lungtl.{command}", *arguments, f"data_dir={self.data_dir}"],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.root, env=isolated(self.root),
        )  # fmt: skip

    def run(self, command: str, *arguments: str) -> Done:
        """The same to its end, in a process that has done the imports."""
        done = self.forks.command(f"lungtl.{command}", *arguments, f"data_dir={self.data_dir}", folder=self.root)
        return Done(done.returncode, done.stdout, done.stderr)

    def train(self, *arguments: str, sweep: bool = False) -> Done:
        """Train the tiny model on the DICOM dataset; later arguments win."""
        return self.run("train", *["-m"] * sweep, *self.dataset(), *MODEL, "workers=1", *arguments)

    def dataset(self, table: Path | None = None) -> list[str]:
        return ["dataset=dicom", f"dataset.root={self.scans}", f"dataset.table={table or self.root / 'labels.csv'}"]

    def table(self, name: str, rows: Sequence[tuple[str, str, str]]) -> Path:
        """Write a label table: series_uid, patient_id, label."""
        path = self.root / name
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("series_uid", "patient_id", "label"), *rows])
        return path

    def rows(self, patients: Sequence[int]) -> list[tuple[str, str, str]]:
        return [(uid(patient), f"p{patient:02d}", str(patient % 2)) for patient in patients]


@dataclass(frozen=True)
class Trained:
    """A training command and the folder that it printed."""

    done: Done
    folder: Path

    @property
    def metrics(self) -> dict[str, Any]:
        return read_json(self.folder / "metrics.json")

    @property
    def run_id(self) -> str:
        return str(read_json(self.folder / "run.json")["mlflow_run_id"])


def read_json(path: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, warm: Forks) -> Lab:
    """24 scans of 48 x 48 pixels; the positive ones hold a bright square."""
    lab = Lab(tmp_path_factory.mktemp("lab"), warm)
    _write(lab)
    return lab


def _write(lab: Lab) -> None:
    for patient in range(N_SERIES):
        hu = np.random.default_rng(patient).normal(-700, 120, (N_SLICES, 48, 48))
        if patient % 2:
            hu[1:4, 16:32, 16:32] += 600
        stored = (hu + 1024).astype(np.int16)
        write_series(lab.scans / f"s{patient:02d}", [1.25 * k for k in range(N_SLICES)], stored, uid=uid(patient))
    lab.table("labels.csv", lab.rows(range(N_SERIES)))


@pytest.fixture(scope="session")
def mixed(lab: Lab) -> Path:
    """Two good scans, one with a cut-off pixel, one without RescaleSlope."""
    folder = lab.root / "mixed"
    for patient in (0, 1):
        shutil.copytree(lab.scans / f"s{patient:02d}", folder / f"s{patient:02d}")
    truncate(write_series(folder / "cut", [0, 1, 2], uid=uid(90))[1], -2)
    write_series(folder / "unscaled", [0, 1, 2], uid=uid(91), RescaleSlope=None)
    return folder


@pytest.fixture(scope="session")
def fresh(lab: Lab) -> Lab:
    """The same dataset with a data_dir that is there for `untracked` alone, whichever tests ran before."""
    return replace(lab, data="fresh")


@pytest.fixture(scope="session")
def untracked(fresh: Lab) -> Trained:
    """The first run of its data_dir, without MLflow."""
    done = fresh.train("trainer.max_epochs=2", "tracking=none", "evaluation.figures=false")
    assert not list(fresh.data_dir.glob("mlflow*")), "tracking=none left something of MLflow"
    return Trained(done, done.folder)


@pytest.fixture(scope="session")
def trained(lab: Lab) -> Trained:
    """The same run in the data_dir of all tests, with MLflow."""
    done = lab.train("trainer.max_epochs=2")
    return Trained(done, done.folder)


@pytest.fixture(scope="session")
def client(lab: Lab, trained: Trained) -> Any:
    """MLflow's client on the session's store."""
    return open_client(None, lab.data_dir)


@pytest.fixture(scope="session")
def scored(lab: Lab, trained: Trained) -> Done:
    """All bags, scored by the run that the start of its MLflow id names."""
    return lab.run("evaluate", f"model={trained.run_id[:8]}", "split=all", "heatmaps=false", *lab.dataset())


@pytest.fixture(scope="session")
def swept(lab: Lab, trained: Trained) -> Done:
    """A sweep of two aggregators."""
    return lab.train("aggregator=mean,max", "trainer.max_epochs=1", "evaluation.figures=false", sweep=True)
