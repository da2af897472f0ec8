from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from lungtl.settings import folders
from lungtl.settings.errors import UsageError
from lungtl.sweeps.plan import compose_grid, plan_runs, print_plan, started_before
from lungtl.sweeps.state import State, status_of, write_state

STARTED = State("running", 0, ("seed=0",), "val/loss")


@pytest.fixture(autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        yield


def config(data_dir: Path, *overrides: str, command: str = "train") -> Any:
    """The config of a sweep, as Hydra passes it to callbacks."""
    line = [*overrides, f"data_dir={data_dir}", "sweep.name=x", folders.search_path()]
    return GlobalHydra.instance().config_loader().load_configuration(command, line, RunMode.MULTIRUN)


def grid(composed: Any) -> dict[Path, tuple[str, ...]]:
    runs = compose_grid(composed)
    assert runs is not None
    return plan_runs(Path(composed.hydra.sweep.dir), runs)


def test_the_grid_is_planned_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    planned = grid(config(tmp_path, "aggregator=mean,max", "seed=range(0,2)", "head.width=8"))
    lines = [[line for line in one if line.startswith(("aggregator", "seed"))] for one in planned.values()]
    assert lines == [["aggregator=mean", "seed=0"], ["aggregator=mean", "seed=1"],
                     ["aggregator=max", "seed=0"], ["aggregator=max", "seed=1"]]  # fmt: skip
    assert len(planned) == 4
    assert {folder.parent for folder in planned} == {tmp_path / "sweeps" / "x"}
    assert set(map(status_of, planned)) == {"new"}


def test_the_same_run_has_the_same_folder_in_a_larger_grid(tmp_path: Path) -> None:
    small = grid(config(tmp_path, "seed=1,2", "aggregator=max"))
    large = grid(config(tmp_path, "aggregator=mean,max", "seed=0,1,2", "workers=2"))
    assert [*large][4:] == [*small]
    first, _ = small
    first.mkdir(parents=True)
    write_state(first, replace(STARTED, state="finished", value=1.0))
    again = grid(config(tmp_path, "aggregator=mean,max", "seed=0,1,2", "workers=2"))
    assert [*map(status_of, again)] == ["new"] * 4 + ["finished", "new"]


def test_sweeps_in_the_config_are_planned_too(tmp_path: Path) -> None:
    planned = grid(config(tmp_path, "split.folds=4", command="crossval"))
    folds = [line for one in planned.values() for line in one if line.startswith("split.fold=")]
    assert folds == [f"split.fold={k}" for k in range(4)]


@pytest.mark.parametrize("override", ["sweep.name=a,b", "data_dir=/a,/b"])
def test_a_sweep_has_one_folder(tmp_path: Path, override: str) -> None:
    composed = config(tmp_path)
    composed.hydra.overrides.task.append(override)
    with pytest.raises(UsageError, match=r"share a folder.*data_dir.*sweep\.name"):
        grid(composed)


def test_a_search_has_no_plan(tmp_path: Path) -> None:
    composed = config(tmp_path, "seed=0,1")
    composed.hydra.sweeper["_target_"] = "some.package.OtherSweeper"
    assert compose_grid(composed) is None


def test_the_plan_shows_each_status_and_action(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    states = [STARTED, replace(STARTED, state="finished", number=1, overrides=("seed=1",)),
              replace(STARTED, state="failed", number=2, overrides=("seed=2",), error="full disk")]  # fmt: skip
    for state in states:
        folder = tmp_path / str(state.number)
        folder.mkdir()
        write_state(folder, state)
    planned = started_before(tmp_path)
    assert [*map(status_of, planned)] == ["killed", "finished", "failed"]
    print_plan(tmp_path, planned, retry=False)
    title, *_, killed, finished, failed, _ = capsys.readouterr().err.splitlines()
    assert title.strip() == f"sweep {tmp_path.name}: 1 killed, 1 finished, 1 failed"
    assert [cell.strip() for cell in killed.split("│")[1:3]] == ["seed=0", "killed"]
    assert "resumes" in killed
    assert "skipped" in finished
    assert "sweep.retry=true" in failed
    assert "full disk" in failed
    print_plan(tmp_path, planned, retry=True)
    assert "retried" in capsys.readouterr().err


def test_brackets_are_not_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("lung", "wide"):
        folder = tmp_path / name
        folder.mkdir()
        error = f"cannot read [/data/{name}.dcm]"
        write_state(folder, replace(STARTED, state="failed", overrides=(f"image.windows=[{name}]",), error=error))
    print_plan(tmp_path, started_before(tmp_path), retry=False)
    printed = capsys.readouterr().err
    for name in ("lung", "wide"):
        assert f"image.windows=[{name}]" in printed
        assert f"cannot read [/data/{name}.dcm]" in printed
