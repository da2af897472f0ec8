from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.evaluation.formatting import HEADLINES
from lungtl.runs.naming import differing
from lungtl.sweeps.report.finished import Run
from lungtl.sweeps.report.write import markdown, run_table


def scores(auroc: float) -> dict[str, Any]:
    estimate = {"value": auroc, "low": None, "high": None, "undefined": "no interval"}
    return {"n": 4, "n_positive": 2, "metrics": dict.fromkeys(HEADLINES, estimate)}


def run(name: str, untrained: float) -> Run:
    document = {"bag": scores(0.9), "controls": {"prevalence": scores(0.5), "untrained": scores(untrained)}}
    return Run(Path(name), {}, {}, 0, "split", "data", pd.DataFrame(), None, document, title=name)


def test_a_control_that_differs_between_runs_is_shown_for_each() -> None:
    table = run_table([run("a", 0.6), run("b", 0.7)])
    assert table[["run", "auroc"]].to_numpy().tolist() == [
        ["a", 0.9], ["b", 0.9], ["control: prevalence", 0.5],
        ["control: untrained of a", 0.6], ["control: untrained of b", 0.7],
    ]  # fmt: skip


def test_run_names_are_reduced_to_their_differences() -> None:
    names = ["phantom resnet18 frozen max seed=0", "phantom resnet18 frozen max seed=1"]
    assert differing(names) == ["seed=0", "seed=1"]


def test_a_single_run_and_equal_runs_keep_their_name() -> None:
    assert differing(["phantom max"]) == ["phantom max"]
    assert differing(["phantom max", "phantom max"]) == ["phantom max", "phantom max"]


def test_a_bar_in_a_name_is_escaped() -> None:
    row = markdown([run("a|b", 0.6)], "x").splitlines()[4]
    assert row.startswith(r"| a\|b | 4 | 2 | 0.900 | 0.900 |")
