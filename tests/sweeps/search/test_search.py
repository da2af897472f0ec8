"""`hydra/sweeper=optuna` from the command line, with a task that takes no time (see `app`)."""

from __future__ import annotations

import csv
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from filelock import FileLock

from lungtl.settings.folders import conf_dir
from lungtl.sweeps.search import LOCK, TABLE
from tests.forked import Forks
from tests.sweeps.search.app import BROKEN, CALLS, KILLED_AT, run

SPACES = conf_dir() / "hydra" / "sweeper" / "params"
SPACE = "+hydra.sweeper.params={optimizer.lr:'tag(log,interval(1e-4,1e-2))',head.width:'choice(64,128)'}"


@dataclass(frozen=True)
class Search:
    """A data_dir, and searches in it."""

    data_dir: Path
    forks: Forks

    @property
    def sweep(self) -> Path:
        return self.data_dir / "sweeps" / "s"

    @property
    def calls(self) -> list[list[str]]:
        """Arguments of each start: lr, width, weight decay, seed."""
        path = self.data_dir / CALLS
        return [line.split()[:4] for line in path.read_text().splitlines()] if path.is_file() else []

    @property
    def trials(self) -> list[dict[str, str]]:
        with (self.sweep / TABLE).open(newline="") as file:
            return list(csv.DictReader(file))

    def states(self) -> list[str]:
        assert [row["trial"] for row in self.trials] == [str(i) for i in range(len(self.trials))]
        return [row["state"] for row in self.trials]

    def run(self, *arguments: str, params: str = "none", **environment: str) -> subprocess.CompletedProcess[str]:
        return run(
            self.forks, self.data_dir, "hydra/sweeper=optuna", f"hydra/sweeper/params={params}",
            f"data_dir={self.data_dir}", "sweep.name=s", "trainer.max_epochs=2", *arguments, **environment,
        )  # fmt: skip


@pytest.fixture
def search(tmp_path: Path, forks: Forks) -> Search:
    return Search(tmp_path, forks)


def test_a_killed_search_is_resumed(search: Search) -> None:
    killed = search.run(SPACE, "hydra.sweeper.n_trials=3", **{KILLED_AT: "2"})
    assert killed.returncode == -signal.SIGKILL
    assert len(search.calls) == 2

    again = search.run(SPACE, "hydra.sweeper.n_trials=3")
    assert again.returncode == 0, again.stderr
    assert search.states() == ["complete"] * 3
    assert len(search.calls) == 4
    assert search.calls[1] == search.calls[2], "the killed trial keeps its values"
    assert len(set(map(tuple, search.calls))) == 3

    more = search.run(SPACE, "hydra.sweeper.n_trials=4")
    assert more.returncode == 0, more.stderr
    assert search.states() == ["complete"] * 4
    assert len(set(map(tuple, search.calls))) == 4

    best = min(search.trials, key=lambda row: float(row["value"]))
    assert f"best on the validation split: trial {best['trial']}, val/loss=" in more.stderr


def test_failed_trials_do_not_end_the_search_and_are_retried_on_request(search: Search) -> None:
    space = "+hydra.sweeper.params={head.width:64,optimizer.weight_decay:'interval(0,1)'}"
    broken = search.run(space, "hydra.sweeper.n_trials=2", **{BROKEN: "64"})
    assert broken.returncode == 1
    assert "sweep.retry=true" in broken.stderr.splitlines()[-1]
    assert search.states() == ["fail", "fail"]

    search.run(space, "hydra.sweeper.n_trials=2")
    assert len(search.calls) == 2, "failed trials count"

    retried = search.run(space, "hydra.sweeper.n_trials=2", "sweep.retry=true")
    assert retried.returncode == 0, retried.stderr
    assert search.states() == ["fail", "fail", "complete", "complete"]
    decay = [row["optimizer.weight_decay"] for row in search.trials]
    assert decay[:2] == decay[2:]


def test_trials_with_the_same_values_share_a_run(search: Search) -> None:
    done = search.run("head.width=choice(64)", "hydra.sweeper.n_trials=3", "hydra.sweeper.batch=2")
    assert done.returncode == 0, done.stderr
    assert search.states() == ["complete"] * 3
    assert len({row["value"] for row in search.trials}) == 1
    assert len(search.calls) == 1


def test_trials_in_worker_processes_are_pruned(search: Search) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'lungtl[joblib]'")
    rule = ["hydra.sweeper.pruning.startup_trials=1", "hydra.sweeper.pruning.warmup_epochs=0"]
    done = search.run(
        "+hydra.sweeper.params={optimizer.weight_decay:'interval(0,1)'}", "optimizer.lr=1e-3,1e-2",
        "hydra.sweeper.n_trials=4", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", *rule,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(search.calls) == 4
    pruned = [row for row in search.trials if row["state"] == "pruned"]
    assert pruned
    assert {(row["optimizer.lr"], row["epochs"]) for row in pruned} == {("0.01", "1")}
    assert {row["epochs"] for row in search.trials if row not in pruned} == {"2"}


def test_a_different_search_with_the_same_name_is_refused(search: Search) -> None:
    assert search.run("head.width=64,128", "hydra.sweeper.n_trials=1").returncode == 0
    other = search.run("head.width=64,128", "head.dropout=0.1", "hydra.sweeper.n_trials=2")
    assert other.returncode != 0
    assert "another hash of the other settings" in other.stderr.splitlines()[-1]
    assert len(search.calls) == 1


def test_only_one_process_searches_at_a_time(search: Search) -> None:
    search.sweep.mkdir(parents=True)
    with FileLock(search.sweep / LOCK):
        done = search.run("head.width=64,128", "hydra.sweeper.n_trials=1")
    assert done.returncode == 1
    assert "another process searches" in done.stderr.splitlines()[-1]
    assert not search.calls


@pytest.mark.parametrize("name", sorted(path.stem for path in SPACES.glob("*.yaml") if path.stem != "none"))
def test_a_predefined_space_is_valid(search: Search, name: str) -> None:
    done = search.run("hydra.sweeper.n_trials=1", params=name)
    assert done.returncode == 0, done.stderr
    (trial,) = search.trials
    assert trial["state"] == "complete"
    assert trial["optimizer.lr"] == f"{float(search.calls[0][0]):.4g}"


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("+hydra.sweeper.params={head.widht:'choice(64,128)'}", "head.widht"),
        ("+hydra.sweeper.params={head.dropout:'interval(0,2)'}", "head.dropout"),
        ("hydra.sweeper.n_trials=0", "n_trials"),
    ],
)
def test_a_wrong_space_is_refused_before_training(search: Search, wrong: str, why: str) -> None:
    done = search.run(wrong)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert why in done.stderr.splitlines()[-1]
    assert not search.calls
