from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lungtl.evaluation.delong import compare_aurocs, compare_mean_aurocs
from lungtl.evaluation.paired import holm
from lungtl.sweeps.report.comparisons import compare, split_controls
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, read_tested, write_grid, write_run

SKILLS = {("mean", "a"): 0.3, ("max", "a"): 1.2, ("attention", "a"): 0.8}


def test_settings_are_compared_by_the_means_of_their_seeds(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, SKILLS))
    found = {one.setting: one for one in compare(tested) if one.kind == "best"}
    assert set(found) == {"mean", "attention"}
    # the runs of mean are 0 and 1, those of max 2 and 3
    mean, best = (
        [probabilities(skill, seed) for seed in seeds] for skill, seeds in ((0.3, (0, 100)), (1.2, (200, 300)))
    )
    differences = [roc_auc_score(LABELS, a) - roc_auc_score(LABELS, b) for a, b in zip(mean, best, strict=True)]
    assert found["mean"].auroc.difference == pytest.approx(np.mean(differences))
    patients = [f"p{i}" for i in range(len(LABELS))]
    expected = compare_mean_aurocs(LABELS, mean, best, patients)
    assert found["mean"].auroc.p_value == pytest.approx(expected.p_value)
    assert found["mean"].against == "max"


def test_one_seed_is_compared_like_two_models(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 0.3, ("max", "a"): 1.2}, seeds=[0]))
    (one,) = [one for one in compare(tested) if one.kind == "best"]
    patients = [f"p{i}" for i in range(len(LABELS))]
    expected = compare_aurocs(LABELS, probabilities(0.3, 0), probabilities(1.2, 100), patients)
    assert asdict(one.auroc) == pytest.approx(asdict(expected))


def test_more_seeds_of_the_same_skill_do_not_make_a_setting_better(tmp_path: Path) -> None:
    # an average of many noisy seeds ranks better than each: that would be a model that nobody trained
    for number in range(10):
        name = "many" if number else "one"
        test, validation = bags("test", probabilities(0.5, number)), bags("val", probabilities(0.5, number))
        write_run(tmp_path / str(number), test, validation, choices={"aggregator": name}, seed=number)
    (tested,) = read_tested(tmp_path)
    assert tested.best is not None
    aurocs = [roc_auc_score(LABELS, probabilities(0.5, number)) for number in range(10)]
    many = next(setting for setting in tested.settings if setting.label == "many")
    assert roc_auc_score(LABELS, tested.test.probabilities[many.members].mean(axis=0)) > np.mean(aurocs[1:]) + 0.1
    (one,) = [one for one in compare(tested) if one.kind == "best"]
    expected = aurocs[0] - np.mean(aurocs[1:])
    assert one.auroc.difference == pytest.approx(expected if one.setting == "one" else -expected)
    assert one.decisions is None  # no seed in common


def test_p_values_are_adjusted_within_each_question(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, SKILLS))
    found = compare(tested)
    sizes = {"max": 2, "prevalence": 3, "diameter": 3, "untrained": 3}  # settings
    assert {one.against for one in found} == sizes.keys()
    for name, size in sizes.items():
        own = [one for one in found if one.against == name]
        assert [one.adjusted for one in own] == holm([one.auroc.p_value for one in own])
        assert {one.family for one in own} == {size}
    decided = [one for one in found if one.kind == "best"]
    assert [one.decisions_adjusted for one in decided] == holm([d.p_value for one in decided if (d := one.decisions)])
    assert {one.decisions_family for one in decided} == {2}


def test_the_untrained_controls_of_all_seeds_are_one_comparison(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 1.0}))
    (found,) = [one for one in compare(tested) if one.against == "untrained"]
    assert (found.setting, found.kind, found.family) == ("the only setting", "control", 1)
    gains = [run.document["gains"]["untrained"]["difference"] for run in tested.runs]
    assert found.auroc.difference == pytest.approx(np.mean(gains))
    own, untrained = [probabilities(1.0, seed) for seed in (0, 100)], [probabilities(0.1, seed) for seed in (2, 102)]
    expected = compare_mean_aurocs(LABELS, own, untrained, tested.test.patient_ids)
    assert found.auroc.p_value == pytest.approx(expected.p_value)


def test_one_seed_against_its_untrained_control_matches_the_run(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 1.0}, seeds=[0]))
    (found,) = [one for one in compare(tested) if one.against == "untrained"]
    assert asdict(found.auroc) == pytest.approx(tested.runs[0].document["gains"]["untrained"])


def test_seeds_without_an_untrained_control_are_not_compared_with_those_of_others(tmp_path: Path) -> None:
    for seed, own in ((0, probabilities(0.1, 2)), (1, None)):
        write_run(tmp_path / str(seed), bags("test", probabilities(1.0, seed)), None, seed=seed, own=own)
    (tested,) = read_tested(tmp_path)
    (found,) = [one for one in compare(tested) if one.against == "untrained"]
    assert found.setting == "the only setting, seed 0"
    assert asdict(found.auroc) == pytest.approx(tested.runs[0].document["gains"]["untrained"])


def test_controls_that_follow_from_the_split_are_those_of_the_runs(tmp_path: Path) -> None:
    (tested,) = read_tested(write_grid(tmp_path, {("mean", "a"): 1.0}, seeds=[0]))
    assert set(split_controls(tested)) == {"prevalence", "diameter"}
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


def test_decisions_of_two_seeds_count_once_per_patient(tmp_path: Path) -> None:
    good = np.where(LABELS == 1, 0.9, 0.1)
    worse = good.copy()
    worse[np.flatnonzero(LABELS == 1)[:3]] = 0.0
    for seed in (0, 1):
        for name, says in (("mean", good), ("max", worse)):
            folder = tmp_path / f"{name}{seed}"
            write_run(folder, bags("test", says), bags("val", good), choices={"aggregator": name}, seed=seed)
    (tested,) = read_tested(tmp_path)
    (one,) = [one for one in compare(tested) if one.kind == "best"]
    assert one.decisions is not None
    # three bags in each of two seeds, but three patients
    assert one.decisions.only_first_right + one.decisions.only_second_right == 6
    assert one.decisions.p_value == pytest.approx(2 / 2**3)


def test_without_a_best_setting_only_controls_are_compared(tmp_path: Path) -> None:
    for name in ("0", "1"):
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": name})
    (tested,) = read_tested(tmp_path)
    assert {one.kind for one in compare(tested)} == {"control"}
