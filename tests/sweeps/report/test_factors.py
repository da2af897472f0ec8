from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.sweeps.report.factors import differing_settings, find_factors, missing_cells, setting_labels
from lungtl.sweeps.report.finished import Run


def run(choices: dict[str, str], settings: dict[str, str], seed: int = 0, store: str = "data") -> Run:
    nothing: dict[str, Any] = {}
    return Run(Path("0"), settings, choices, seed, "one", store, pd.DataFrame(), None, nothing)


def test_an_option_is_a_level_and_what_follows_from_it_is_not() -> None:
    runs = [
        run({"aggregator": "mean"}, {"aggregator._target_": "Mean", "loss.weight": "1"}),
        run({"aggregator": "max"}, {"aggregator._target_": "Max", "aggregator.top": "3", "loss.weight": "1"}),
    ]
    assert find_factors(runs) == {"aggregator": ["mean", "max"]}


def test_a_setting_that_all_options_were_tried_with_is_a_factor() -> None:
    runs = [
        run({"backbone": name}, {"backbone.name": f"{name}.in1k", "backbone.weights": weights})
        for name in ("a", "b")
        for weights in ("auto", "none")
    ]
    assert find_factors(runs) == {
        "backbone": ["a", "a", "b", "b"],
        "backbone.weights": ["auto", "none", "auto", "none"],
    }


def test_a_setting_of_one_option_is_part_of_its_level() -> None:
    runs = [
        run({"aggregator": "mean"}, {"aggregator._target_": "Mean"}),
        run({"aggregator": "attention"}, {"aggregator._target_": "Attention", "aggregator.width": "64"}),
        run({"aggregator": "attention"}, {"aggregator._target_": "Attention", "aggregator.width": "128"}),
    ]
    assert find_factors(runs) == {"aggregator": ["mean", "attention width=64", "attention width=128"]}


def test_an_overlay_may_set_anything() -> None:
    runs = [
        run({"experiments": "small"}, {"optimizer.lr": "0.1", "head.width": "8"}),
        run({"experiments": "large"}, {"optimizer.lr": "0.2", "head.width": "9"}),
    ]
    assert find_factors(runs) == {"experiments": ["small", "large"]}


def test_runs_are_named_by_their_levels() -> None:
    factors = {"aggregator": ["mean", "max"], "optimizer.lr": ["0.1", "0.2"]}
    assert setting_labels(factors, 2) == ["mean, lr=0.1", "max, lr=0.2"]
    assert setting_labels({}, 1) == ["the only setting"]


def test_missing_combinations() -> None:
    factors = {"aggregator": ["mean", "mean", "max"], "backbone": ["a", "b", "b"]}
    assert missing_cells(factors) == (1, [("max", "a")])
    assert missing_cells({"aggregator": ["mean", "max"]}) == (0, [])
    assert missing_cells({}) == (0, [])


def test_of_many_missing_combinations_the_first_are_listed() -> None:
    levels = [str(i) for i in range(30)]
    count, first = missing_cells({"a": [*levels, "0"], "b": [*levels, "1"]}, most=3)
    assert (count, first) == (30 * 30 - 31, [("0", "2"), ("0", "3"), ("0", "4")])


def test_a_search_has_no_grid() -> None:
    draws = {key: [f"{number}" for number in range(1000)] for key in "abcdef"}  # 10**18 combinations
    assert missing_cells(draws) == (0, [])


def test_a_setting_that_a_run_does_not_have_differs() -> None:
    runs = [run({}, {"a.x": "1", "a.y": "2"}), run({}, {"a.x": "1"})]
    assert differing_settings(runs) == {"a.y": ["2", "-"]}


def test_different_data_are_different_levels() -> None:
    runs = [run({}, {"optimizer.lr": lr}, store=store) for lr in ("1", "2") for store in ("0123456789", "abcdefghij")]
    assert find_factors(runs) == {
        "optimizer.lr": ["1", "1", "2", "2"],
        "dataset.fingerprint": ["01234567", "abcdefgh", "01234567", "abcdefgh"],
    }


def test_data_that_follow_from_another_factor_are_part_of_it() -> None:
    runs = [run({}, {"image.crop": crop}, seed, store=crop) for crop in ("none", "lung") for seed in (0, 1)]
    assert find_factors(runs) == {"image.crop": ["none", "none", "lung", "lung"]}


def test_two_data_of_one_option_are_part_of_its_level() -> None:
    runs = [run({"dataset": name}, {}, store=store) for name, store in (("a", "1"), ("a", "2"), ("b", "3"))]
    assert find_factors(runs) == {"dataset": ["a fingerprint=1", "a fingerprint=2", "b fingerprint=3"]}
