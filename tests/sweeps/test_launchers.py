"""Each launcher starts the runs of a sweep, with the right number of threads."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest
from joblib import cpu_count  # type: ignore[import-untyped]

from lungtl.settings.errors import UsageError
from lungtl.sweeps.installed import EXTRAS, check_installed
from lungtl.sweeps.state import read_state
from tests.forked import Forks
from tests.sweeps.search.app import CALLS, KILLED_AT, THREADS, run

LAUNCHERS: dict[str, tuple[str | None, list[str]]] = {
    "basic": (None, []),
    "slurm_local": ("submitit", ["hydra.launcher.cpus_per_task=1"]),
    "ray_local": ("ray", ["hydra.launcher.ray.remote.num_cpus=1"]),
}
"""The extra that a launcher needs, and the setting that gives each process one core."""


def calls(folder: Path) -> tuple[list[str], set[str], set[str]]:
    """Seeds of the starts, and all their threads and processes."""
    *_, seeds, threads, processes = zip(
        *(line.split() for line in (folder / CALLS).read_text().splitlines()), strict=True
    )
    return sorted(seeds), set(threads), set(processes)


@pytest.mark.parametrize("launcher", ["basic", "slurm_local", pytest.param("ray_local", marks=pytest.mark.slow)])
def test_a_launcher_divides_the_cores(launcher: str, forks: Forks, tmp_path: Path) -> None:
    extra, settings = LAUNCHERS[launcher]
    if extra is not None and find_spec(f"hydra_plugins.hydra_{extra}_launcher") is None:
        pytest.skip(f"needs pip install 'lungtl[{extra}]'")
    arguments = [f"hydra/launcher={launcher}", *settings, f"data_dir={tmp_path}", *["seed=0,1"] * (extra is None)]
    done = run(forks, tmp_path, *arguments, **{THREADS: "1"})
    assert done.returncode == 0, done.stderr
    seeds, threads, processes = calls(tmp_path)
    assert seeds == (["0", "1"] if extra is None else ["0"])
    assert threads == ({"all"} if extra is None else {"1"})
    assert len(processes) == 1


def test_a_killed_process_stops_no_other_run(forks: Forks, tmp_path: Path) -> None:
    """The launcher is started again; tests/commands/test_launchers.py does this with runs that train."""
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="pip install 'lungtl[joblib]'")
    done = run(
        forks, tmp_path, "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "seed=0,1,2", "sweep.name=s",
        f"data_dir={tmp_path}", **{KILLED_AT: "1", THREADS: "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    seeds, threads, processes = calls(tmp_path)
    assert set(seeds) == {"0", "1", "2"}
    assert threads == {str(max(1, cpu_count() // 2))}
    assert len(processes) > 2  # two at a time, and one more for the killed one
    assert done.stderr.count("the launcher has stopped (") == 1
    states = [read_state(path.parent) for path in (tmp_path / "sweeps" / "s").glob("*/status.json")]
    assert [state is not None and state.state for state in states] == ["finished"] * 3


def test_the_slurm_request_follows_the_config(forks: Forks, tmp_path: Path) -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher", reason="pip install 'lungtl[submitit]'")
    commands, script = tmp_path / "bin", tmp_path / "script"
    commands.mkdir()
    for name, content in (("srun", "exit 0"), ("sbatch", f'cp "$1" {script}; exit 1')):  # a queue that refuses all
        (commands / name).write_text(f"#!/bin/sh\n{content}\n")
        (commands / name).chmod(0o755)
    done = run(
        forks, tmp_path, "hydra/launcher=slurm", "hydra.launcher.partition=gpu", "seed=0,1", f"data_dir={tmp_path}",
        PATH=f"{commands}{os.pathsep}{os.environ['PATH']}",
    )  # fmt: skip
    assert done.returncode != 0
    requested = {
        line.removeprefix("#SBATCH --") for line in script.read_text().splitlines() if line.startswith("#SBATCH")
    }
    assert requested >= {
        "array=0-1%2", "cpus-per-task=8", "gpus-per-node=1", "job-name=lungtl", "mem=32GB", "nodes=1",
        "ntasks-per-node=1", "partition=gpu", "signal=USR2@120", "time=720",
    }  # fmt: skip


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    for package, (extra, module) in EXTRAS.items():
        monkeypatch.setitem(EXTRAS, package, (extra, "no_such_module_" + module[-3:]))
        with pytest.raises(UsageError, match=rf"^Launcher is not installed; pip install 'lungtl\[{extra}\]'$"):
            check_installed(f"{package}.part.Launcher")
    check_installed("hydra._internal.core_plugins.basic_launcher.BasicLauncher")


def test_slurm_without_srun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError, match=r"hydra/launcher=slurm.*srun.*slurm_local$"):
        check_installed("hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher")
