from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from lungtl.sweeps.report.about import command, facts, margins
from lungtl.sweeps.report.sweep import Sweep, read_sweep
from lungtl.sweeps.report.write import best_run, latex_table, terminal_rows
from tests.sweeps.report.sweeps import write_grid

SKILLS = {("mean", "a"): 0.2, ("max", "a"): 1.5, ("mean", "b"): 0.5}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_grid(tmp_path_factory.mktemp("sweep"), SKILLS)
    task = ["data_dir=/home/me/data", "dataset=lidc", "dataset.root=/home/me/LIDC-IDRI", "aggregator=mean,max"]
    (folder / "multirun.yaml").write_text(yaml.safe_dump({"hydra": {"overrides": {"task": task}}}))
    for path in folder.glob("*/metrics.json"):
        os.utime(path, (0, 1_700_000_000))
    return folder


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Sweep:
    return read_sweep(folder)


def test_the_facts_of_a_sweep(sweep: Sweep) -> None:
    assert dict(facts(sweep)) == {
        "varied": "aggregator: mean, max; backbone: a, b", "fixed": "dataset=phantom freezing=frozen",
        "command": "lungtl train -m dataset=lidc aggregator=mean,max", "date": "2023-11-14",
    }  # fmt: skip


def test_an_unknown_command_is_omitted(tmp_path: Path) -> None:
    assert command(tmp_path) == ""


def test_the_best_setting_leads_by_what_the_tests_found(sweep: Sweep) -> None:
    best, second = sweep.tested.settings[:2]
    lead = best.test["auroc"].value - second.test["auroc"].value  # type: ignore[operator]
    first, *controls = margins(sweep)
    assert first.startswith(f"Difference to {second.label}, next on validation: {lead:+.3f} [")
    assert [line.partition(":")[0] for line in controls] == [
        f"Difference to the control {name}" for name in ("prevalence", "diameter", "untrained")
    ]


def test_the_best_run_is_one_of_the_best_setting(folder: Path, sweep: Sweep) -> None:
    assert sweep.tested.best is not None
    assert sweep.tested.best.label == "max, a"
    assert best_run(sweep) in (folder / "2", folder / "3")


def test_the_terminal_shows_what_differs(sweep: Sweep) -> None:
    head, first, *_ = rows = terminal_rows(sweep)
    assert head == ("aggregator", "backbone", "seeds", "validation", "test AUROC")
    assert first[:3] == ("max", "a", "2")
    assert [row[0] for row in rows[4:]] == ["control: prevalence", "control: diameter", "control: untrained"]
    assert len({len(row) for row in rows}) == 1


def test_the_table_for_latex(sweep: Sweep) -> None:
    lines = latex_table(sweep).splitlines()
    assert lines[1] == r"\begin{tabular}{llrrrrrrr}"
    assert sum(line.count(" & ") == 8 for line in lines) == 4
    assert r"$\pm$" in lines[5]


def test_special_characters_of_latex(sweep: Sweep) -> None:
    text = latex_table(replace(sweep, factors={"a_b": [], "5 %": []}))
    assert r"a\_b & 5 \% & seeds" in text
