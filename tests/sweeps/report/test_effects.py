from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungtl.sweeps.report.effects import Effect, measure_effects
from lungtl.sweeps.report.factors import find_factors
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, read_tested, write_grid, write_run


def effects_of(sweep: Path) -> dict[tuple[str, str], Effect]:
    tested, *_ = read_tested(sweep)
    found = measure_effects(tested, find_factors(tested.runs))
    return {(one.factor, one.level): one for one in found}


def auroc(skill: float, run: int) -> float:
    return float(roc_auc_score(LABELS, probabilities(skill, 100 * run)))


def test_an_effect_is_the_mean_over_matched_pairs(tmp_path: Path) -> None:
    skills = {("mean", "a"): 0.2, ("max", "a"): 1.5, ("mean", "b"): 0.5, ("max", "b"): 1.0}
    found = effects_of(write_grid(tmp_path, skills))
    assert set(found) == {("aggregator", "max"), ("backbone", "b")}
    differences = [
        auroc(1.5, 2) - auroc(0.2, 0), auroc(1.5, 3) - auroc(0.2, 1),
        auroc(1.0, 6) - auroc(0.5, 4), auroc(1.0, 7) - auroc(0.5, 5),
    ]  # fmt: skip
    one = found["aggregator", "max"]
    assert (one.reference, one.pairs) == ("mean", 4)
    assert one.difference.value == pytest.approx(np.mean(differences))
    assert one.difference.sd == pytest.approx(np.std(differences, ddof=1))
    assert one.difference.low is not None
    assert one.difference.high is not None
    assert one.difference.low < np.mean(differences) < one.difference.high


def test_runs_without_a_partner_do_not_count(tmp_path: Path) -> None:
    skills = {("mean", "a"): 0.2, ("max", "a"): 1.5, ("max", "b"): 1.0}
    found = effects_of(write_grid(tmp_path, skills, seeds=[0]))
    assert found["aggregator", "max"].pairs == 1
    assert found["aggregator", "max"].difference.value == pytest.approx(auroc(1.5, 1) - auroc(0.2, 0))
    assert found["backbone", "b"].pairs == 1
    assert found["backbone", "b"].difference.value == pytest.approx(auroc(1.0, 2) - auroc(1.5, 1))


def test_factors_that_only_change_together_have_no_effect_of_their_own(tmp_path: Path) -> None:
    found = effects_of(write_grid(tmp_path, {("mean", "a"): 0.2, ("max", "b"): 1.5}))
    assert [(one.pairs, one.difference.value) for one in found.values()] == [(0, None), (0, None)]


def test_the_same_predictions_have_no_effect_at_all(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": name})
    one = effects_of(tmp_path)["aggregator", "1"].difference
    assert (one.value, one.low, one.high) == (0, None, None)  # [0, 0] would say that no patient could tell them apart


def test_pairs_have_the_same_seed(tmp_path: Path) -> None:
    for name, seed in (("0", 0), ("1", 1)):
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": name}, seed=seed)
    assert effects_of(tmp_path)["aggregator", "1"].pairs == 0
