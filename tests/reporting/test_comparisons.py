from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.paired import holm
from lungtl.reporting.comparisons import averaged, compare, computed_controls
from tests.reporting.sweeps import LABELS, bags, probabilities, read_tested, write_grid, write_run

SKILLS = {("mean", "a"): 0.3, ("max", "a"): 1.2, ("attention", "a"): 0.8}


def test_a_setting_speaks_with_the_mean_of_its_seeds(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, SKILLS))
    by_label = {setting.label: setting for setting in tested.settings}
    found = {one.setting: one for one in compare(tested) if one.kind == "best"}
    assert set(found) == {"mean", "attention"}
    # the runs of mean are 0 and 1, those of max 2 and 3
    mean = (probabilities(0.3, 0) + probabilities(0.3, 100)) / 2
    best = (probabilities(1.2, 200) + probabilities(1.2, 300)) / 2
    assert averaged(tested.test, by_label["mean"]) == pytest.approx(mean)
    patients = [f"p{i}" for i in range(len(LABELS))]
    expected = compare_aurocs(LABELS, mean, best, patients)
    assert found["mean"].auroc.difference == pytest.approx(expected.difference)
    assert found["mean"].auroc.p_value == pytest.approx(expected.p_value)
    assert found["mean"].against == "max"


def test_all_p_values_are_adjusted_together(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, SKILLS))
    found = compare(tested)
    p_values = [one.auroc.p_value for one in found]
    p_values += [one.decisions.p_value if one.decisions else None for one in found]
    adjusted = holm(p_values)
    assert [one.adjusted for one in found] == adjusted[: len(found)]
    assert [one.decisions_adjusted for one in found] == adjusted[len(found) :]
    # 2 against the best, twice; 3 settings against prevalence and diameter; 6 runs against their own control
    assert sum(p is not None for p in p_values) == 2 * 2 + 3 * 2 + 6


def test_controls_of_a_run_alone_are_compared_with_that_run(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 1.0}))
    found = {(one.setting, one.against): one.auroc for one in compare(tested)}
    assert set(found) == {
        ("the only setting", "prevalence"), ("the only setting", "diameter"),
        ("the only setting, seed 0", "untrained"), ("the only setting, seed 1", "untrained"),
    }  # fmt: skip
    for place, run in enumerate(tested.runs):
        gain = run.document["gains"]["untrained"]
        assert found[f"the only setting, seed {place}", "untrained"].difference == gain["difference"]


def test_controls_that_follow_from_the_split_are_those_of_the_runs(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 1.0}, seeds=[0]))
    assert set(computed_controls(tested)) == {"prevalence", "diameter"}
    for one in compare(tested):
        assert one.auroc.difference == pytest.approx(tested.runs[0].document["gains"][one.against]["difference"])


def test_decisions_are_compared_at_the_threshold_of_the_validation_bags(tmp_path: Path) -> None:
    # On validation both tell the classes apart, at .2 and at .7; on the test bags the second calls three positives
    # below that, and the first none.
    first = np.where(LABELS == 1, 0.3, 0.1)
    second_validation = np.where(LABELS == 1, 0.8, 0.6)
    second = second_validation.copy()
    second[np.flatnonzero(LABELS == 1)[:3]] = 0.65
    write_run(tmp_path / "0", bags("test", first), bags("val", first), choices={"aggregator": "mean"})
    write_run(tmp_path / "1", bags("test", second), bags("val", second_validation), choices={"aggregator": "max"})
    (tested,) = read_tested(tmp_path)
    assert tested.best is not None
    assert tested.best.label == "mean"  # the first of two that are equal
    (one,) = [one for one in compare(tested) if one.kind == "best"]
    assert one.decisions is not None
    assert (one.decisions.only_first_right, one.decisions.only_second_right) == (0, 3)
    assert one.decisions.p_value == pytest.approx(2 / 2**3)


def test_without_a_best_setting_only_controls_are_compared(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": name})
    (tested,) = read_tested(tmp_path)
    assert {one.kind for one in compare(tested)} == {"control"}
