from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score

from lungtl.evaluation.figures.curves import ROC
from lungtl.sweeps.report.comparable import TestSet
from lungtl.sweeps.report.figures import cost_figure, mean_curve
from tests.sweeps.report.sweeps import LABELS, read_tested, write_grid


@pytest.fixture
def tested(tmp_path: Path) -> TestSet:
    (found,) = read_tested(write_grid(tmp_path, {(name, "a"): 0.8 for name in ("mean", "max", "lse")}, seeds=[0]))
    assert len(found.settings) == 3
    return found


def numbers(tested: TestSet, costs: list[float | None]) -> list[str]:
    (axes,) = cost_figure(tested, {"training, s": costs}).axes
    return sorted(text.get_text() for text in axes.texts)


def test_every_setting_has_its_number(tested: TestSet) -> None:
    assert numbers(tested, [1.0, 5.0, 9.0]) == ["1", "2", "3"]


def test_settings_without_a_known_cost_are_omitted(tested: TestSet) -> None:
    assert numbers(tested, [1.0, None, 9.0]) == ["1", "3"]


def test_overlapping_points_share_one_text(tested: TestSet) -> None:
    for setting in tested.settings:
        setting.test["auroc"] = tested.settings[0].test["auroc"]
    assert numbers(tested, [5.0, 90.0, 5.01]) == ["1, 3", "2"]
    assert numbers(tested, [1.0, 1000.0, 1.001]) == ["1, 3", "2"]  # on a logarithmic axis


def test_costs_of_several_decades_have_a_logarithmic_axis(tested: TestSet) -> None:
    for costs, scale in (([1.0, 5.0, 9.0], "linear"), ([1.0, 50.0, 900.0], "log"), ([0.0, 50.0, 900.0], "linear")):
        (axes,) = cost_figure(tested, {"trainable parameters": costs}).axes
        assert axes.get_xscale() == scale


@pytest.mark.parametrize("ties", [False, True])
def test_the_mean_roc_curve_has_the_mean_area(ties: bool) -> None:
    random = np.random.default_rng(0)
    scores = [random.integers(0, 5, len(LABELS)) / 5 if ties else random.uniform(size=len(LABELS)) for _ in range(3)]
    x, y = mean_curve([ROC.trace(LABELS, one)[:2] for one in scores])
    assert auc(x, y) == pytest.approx(np.mean([roc_auc_score(LABELS, one) for one in scores]))
    assert (np.diff(x) >= 0).all()
    assert (np.diff(y) >= -1e-12).all()
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_the_mean_of_one_curve_is_the_curve() -> None:
    x, y = mean_curve([(np.array([0, 0, 0.5, 0.5, 1]), np.array([0, 0.25, 0.25, 1, 1]))])
    assert x.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert y.tolist() == [0, 0.25, 0.25, 1, 1, 1]
