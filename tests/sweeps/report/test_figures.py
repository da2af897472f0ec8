from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.sweeps.report.comparable import TestSet
from lungtl.sweeps.report.figures import cost_figure
from tests.sweeps.report.sweeps import read_tested, write_grid


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
