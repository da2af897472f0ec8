from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.metrics import score
from lungtl.sweeps.report.comparable import METRICS, pool_seeds, score_runs
from tests.sweeps.report.sweeps import LABELS, N, bags, probabilities, read_tested, write_grid, write_run


def test_scores_are_those_of_a_single_evaluation() -> None:
    tables = [bags("test", probabilities(skill, seed)) for skill, seed in ((1.0, 0), (0.2, 1), (20.0, 2))]
    thresholds = (0.5, 0.3, 0.5)
    found = score_runs(tables, thresholds)
    for i, (table, threshold) in enumerate(zip(tables, thresholds, strict=True)):
        alone = score(table["label"], table["probability"], table["patient_id"], threshold=threshold)
        for m, name in enumerate(METRICS):
            of_rates = {"sensitivity": N // 2, "specificity": N // 2}
            pooled = pool_seeds(found.values[[i], m], found.replicates[[i], m], of_rates.get(name))
            own = alone.metrics[name]
            assert (pooled.value, pooled.low, pooled.high) == pytest.approx((own.value, own.low, own.high))
            assert pooled.sd is None


def test_seeds_are_pooled() -> None:
    values = np.array([0.8, 0.9])
    replicates = np.array([np.linspace(0.5, 0.7, 1001), np.linspace(0.7, 0.9, 1001)])
    found = pool_seeds(values, replicates)
    # the mean of the seeds runs from .6 to .8
    assert (found.value, found.low, found.high) == pytest.approx((0.85, 0.605, 0.795))
    assert found.sd == pytest.approx(0.1 / np.sqrt(2))


@pytest.mark.parametrize("seeds", [[0], [0, 1]])
def test_perfect_runs_have_no_auroc_interval(tmp_path: Path, seeds: list[int]) -> None:
    perfect = np.where(LABELS == 1, 0.9, 0.1)
    for seed in seeds:
        write_run(tmp_path / str(seed), bags("test", perfect), bags("val", perfect), seed=seed)
    (tested,) = read_tested(tmp_path)
    (setting,) = tested.settings
    for auroc in (setting.test["auroc"], setting.validation):
        assert (auroc.value, auroc.low, auroc.high, auroc.sd) == (1, None, None, None if len(seeds) == 1 else 0)
        assert "every resample" in str(auroc.undefined)
    for name in ("sensitivity", "specificity"):
        # 20 of 20 patients: the rate at which that happens in 2.5 % of all cases is 0.025 ** (1 / 20)
        assert setting.test[name].low == pytest.approx(0.831567, abs=1e-6)
        assert setting.test[name].high == 1


def test_constant_seeds_have_no_interval() -> None:
    values, replicates = np.array([1.0, 0.0]), np.array([np.ones(10), np.zeros(10)])
    for of_trials in (None, 20):
        found = pool_seeds(values, replicates, of_trials)
        assert (found.value, found.low, found.sd) == (0.5, None, float(np.sqrt(0.5)))
    found = pool_seeds(np.array([-1.0]), np.full((1, 10), -1.0))
    assert (found.value, found.low, found.sd) == (-1.0, None, None)


def test_a_rate_that_resamples_change_keeps_its_interval() -> None:
    replicates = np.array([[0.0, 1.0] * 500, [1.0] * 1000])
    found = pool_seeds(np.array([1.0, 1.0]), replicates)
    assert (found.low, found.high) == (0.5, 1)


def test_a_seed_without_a_value_leaves_the_mean_undefined() -> None:
    assert pool_seeds(np.array([0.8, np.nan]), np.full((2, 10), 0.5)).value is None


def test_one_patient_has_no_interval() -> None:
    table = bags("test", probabilities(1, 0)).assign(patient_id="p")
    found = score_runs([table], [0.5])
    pooled = pool_seeds(found.values[:, 0], found.replicates[:, 0])
    assert pooled.value == pytest.approx(roc_auc_score(LABELS, table["probability"]))
    assert (pooled.low, pooled.high) == (None, None)


def test_settings_pool_their_seeds_and_the_best_is_chosen_on_validation(tmp_path: Path) -> None:
    good, bad = probabilities(2, 0), probabilities(-1, 1)
    for seed in (0, 1):
        # what is good on the test bags is bad on the validation bags
        write_run(
            tmp_path / f"0{seed}", bags("test", good), bags("val", bad), choices={"aggregator": "mean"}, seed=seed
        )
        write_run(tmp_path / f"1{seed}", bags("test", bad), bags("val", good), choices={"aggregator": "max"}, seed=seed)
    (tested,) = read_tested(tmp_path)
    assert [(setting.label, setting.seeds) for setting in tested.settings] == [("max", [0, 1]), ("mean", [0, 1])]
    assert tested.best is tested.settings[0]
    assert tested.best.test["auroc"].value == pytest.approx(roc_auc_score(LABELS, bad))
    assert tested.best.validation.value == pytest.approx(roc_auc_score(LABELS, good))


def test_different_test_bags_are_a_different_test_set(tmp_path: Path) -> None:
    says = probabilities(1, 0)
    turned = 1 - LABELS
    for name, fingerprint, truth in (
        ("0", "one", LABELS),
        ("1", "two", LABELS),
        ("2", "two", LABELS),
        ("3", "one", turned),
    ):
        write_run(tmp_path / name, bags("test", says, truth), None, split_fingerprint=fingerprint)
    assert [[run.name for run in tested.runs] for tested in read_tested(tmp_path)] == [["1", "2"], ["0"], ["3"]]


def test_without_validation_bags_nothing_is_chosen(tmp_path: Path) -> None:
    for name, validation in (("0", bags("val", probabilities(1, 0))), ("1", None)):
        write_run(tmp_path / name, bags("test", probabilities(1, 1)), validation, choices={"aggregator": name})
    (tested,) = read_tested(tmp_path)
    assert tested.best is None
    assert [setting.validation.value for setting in tested.settings] == [None, None]


def test_validation_bags_of_one_class_choose_nothing(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", probabilities(1, 1)), bags("val", np.full(N, 0.5), np.ones(N, int)))
    (tested,) = read_tested(tmp_path)
    assert tested.best is None


def test_the_order_of_settings_is_that_of_validation(tmp_path: Path) -> None:
    write_grid(tmp_path, {("mean", "a"): 0.1, ("max", "a"): 3.0, ("max", "b"): 1.0})
    (tested,) = read_tested(tmp_path)
    values = [setting.validation.value for setting in tested.settings]
    assert values == sorted(values, key=lambda value: -(value or 0))
    assert tested.settings[0].levels == ("max", "a")


def test_runs_on_different_data_are_different_settings(tmp_path: Path) -> None:
    for name, store in (("0", "first"), ("1", "second")):
        settings = {"dataset": {"root": f"/{store}"}}
        write_run(
            tmp_path / name, bags("test", probabilities(1, 0)), None, settings=settings, seed=int(name),
            store_fingerprint=store,
        )  # fmt: skip
    (tested,) = read_tested(tmp_path)
    assert [(setting.label, setting.seeds) for setting in tested.settings] == [
        ("fingerprint=first", [0]),
        ("fingerprint=second", [1]),
    ]


def test_moved_data_are_the_same_setting(tmp_path: Path) -> None:
    for name in ("0", "1"):
        settings = {"dataset": {"root": f"/{name}"}}
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, settings=settings, seed=int(name))
    (tested,) = read_tested(tmp_path)
    assert [setting.seeds for setting in tested.settings] == [[0, 1]]


def test_a_repeated_run_is_no_second_seed(tmp_path: Path) -> None:
    for name, seed in (("0", 0), ("1", 1), ("2", 0)):
        write_run(tmp_path / name, bags("test", probabilities(1, int(name))), None, seed=seed)
    (tested,) = read_tested(tmp_path)
    (setting,) = tested.settings
    assert (setting.members, setting.seeds) == ([0, 1], [0, 1])
    assert tested.duplicates == {2: 0}
