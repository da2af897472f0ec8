"""Runs tested on the same patients, their settings with the seeds pooled, and the best setting on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lungtl.evaluation.bootstrap import bootstrap_estimate, patient_bootstrap
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.estimate import Estimate, mean_and_sd
from lungtl.evaluation.formatting import HEADLINES
from lungtl.evaluation.metrics import rate_trials
from lungtl.evaluation.weighted import METRICS as ALL_METRICS
from lungtl.evaluation.weighted import Floats, Rows
from lungtl.sweeps.report.finished import Run

RESAMPLES = 1000
METRICS = tuple(HEADLINES)
AUROC = METRICS.index("auroc")
NO_VALIDATION = Estimate(None, undefined="a run has no validation predictions")


@dataclass(frozen=True)
class Predictions:
    """Predictions of K runs on the same N bags, and their metrics, NaN where undefined."""

    labels: NDArray[np.int64]  # [N], 0 or 1
    patient_ids: list[str]  # N
    probabilities: Floats  # [K, N]
    values: Floats  # [K, len(METRICS)]
    replicates: Floats  # [K, len(METRICS), R], on R resamples of the patients, the same for all runs


@dataclass(frozen=True)
class Setting:
    """Runs that differ only in the seed."""

    label: str  # what distinguishes it from the other settings
    levels: tuple[str, ...]  # of the factors, in their order
    members: list[int]  # indices of its runs among those of the test set
    seeds: list[int]  # of these runs
    validation: Estimate  # AUROC on the validation bags, the mean over the seeds
    test: dict[str, Estimate]  # name in `METRICS` -> mean over the seeds on the test bags


@dataclass(frozen=True)
class TestSet:
    """Runs with the same split and the same labels of the test bags."""

    __test__ = False  # not a test class for pytest

    runs: list[Run]
    indices: list[int]  # of these among all finished runs of the sweep
    test: Predictions
    validation: Predictions | None  # None where a run has none
    settings: list[Setting]  # by decreasing validation AUROC, those without one last
    best: Setting | None  # the best setting on validation; None where a setting has no validation AUROC
    # run that repeats the setting and seed of an earlier one, and is not counted -> that run
    duplicates: dict[int, int]

    def name_of(self, run: int) -> str:
        """Setting and seed of a run: "max, seed 1"."""
        counted = self.duplicates.get(run, run)
        label = next(setting.label for setting in self.settings if counted in setting.members)
        return f"{label}, seed {self.runs[run].seed}"


def by_test_set(runs: Sequence[Run], labels: Sequence[str], levels: Sequence[tuple[str, ...]]) -> list[TestSet]:
    """Group runs by their test set, the largest group first; numbers of different ones are not comparable.

    Args:
        runs: finished.
        labels: of the setting of each run.
        levels: of the factors, of each run.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        bags = run.test[["bag_id", "patient_id", "label"]].to_numpy().tolist()
        groups.setdefault((run.split_fingerprint, *map(tuple, bags)), []).append(i)
    ordered = sorted(groups.values(), key=lambda members: (-len(members), members[0]))
    return [
        _test_set(rows, [runs[i] for i in rows], [labels[i] for i in rows], [levels[i] for i in rows])
        for rows in ordered
    ]


def score_runs(tables: Sequence[pd.DataFrame], thresholds: Sequence[float]) -> Predictions:
    """Score the predictions of several runs on the same bags.

    Args:
        tables: bag_id, patient_id, label, probability of each run, with the same bags in the same order.
        thresholds: of each run; bags with at least this probability are called positive.

    Returns:
        The scores; those on resampled patients are NaN for fewer than two patients.
    """
    labels = tables[0]["label"].to_numpy(np.int64)
    patient_ids = tables[0]["patient_id"].tolist()
    patients = patient_codes(patient_ids, len(labels))
    probabilities = np.stack([table["probability"].to_numpy(np.float64) for table in tables])

    ranked = [Rows(labels, p, threshold, patients) for p, threshold in zip(probabilities, thresholds, strict=True)]
    chosen = [ALL_METRICS.index(name) for name in METRICS]

    def statistic(weights: Floats) -> Floats:
        return np.concatenate([rows.metrics(weights)[chosen] for rows in ranked])

    shape = (len(tables), len(METRICS))
    replicates = np.full((*shape, RESAMPLES), np.nan)
    if patients.max() > 0:
        replicates = patient_bootstrap(statistic, patients, resamples=RESAMPLES, seed=0).reshape(*shape, RESAMPLES)
    values = statistic(np.ones((1, len(labels)))).reshape(shape)
    return Predictions(labels, patient_ids, probabilities, values, replicates)


def pool_seeds(values: Floats, replicates: Floats, trials: int | None = None) -> Estimate:
    """The mean of a metric over seeds, with the standard deviation between them.

    A rate of 0 or 1 in all seeds has the exact binomial interval, like that of a single seed. Otherwise there is no
    interval where each seed gives the same 0, 1 or -1 on every resample.

    Args:
        values: float64 [S], of each seed; the mean is undefined where one is NaN.
        replicates: float64 [S, R], on the same resamples of the patients.
        trials: of a rate, the patients whose bags it counts; None for other metrics.
    """
    if np.isnan(values).any():
        return Estimate(None, undefined="undefined for at least one seed")
    mean, sd = mean_and_sd(values.tolist())
    estimate = bootstrap_estimate(mean, replicates.mean(axis=0), trials)
    if mean not in (0, 1) or trials is None:
        constant = np.isin(values, (-1, 0, 1)) & ((replicates == values[:, None]) | np.isnan(replicates)).all(axis=1)
        if constant.all():
            estimate = Estimate(mean, undefined="no interval: every resample gives the same value")
    return replace(estimate, sd=sd)


def _test_set(indices: list[int], runs: list[Run], labels: list[str], levels: list[tuple[str, ...]]) -> TestSet:
    thresholds = [float(run.document["bag"]["threshold"]) for run in runs]
    test = score_runs([run.test for run in runs], thresholds)
    tables = [run.validation for run in runs if run.validation is not None and len(run.validation)]
    validation = score_runs(tables, thresholds) if len(tables) == len(runs) else None
    members: dict[tuple[str, ...], list[int]] = {}
    first: dict[tuple[tuple[str, ...], int], int] = {}
    duplicates = {}
    for i, combination in enumerate(levels):
        if first.setdefault((combination, runs[i].seed), i) == i:
            members.setdefault(combination, []).append(i)
        else:
            duplicates[i] = first[combination, runs[i].seed]
    trials = rate_trials(test.labels, patient_codes(test.patient_ids, len(test.labels)))

    def pooled(predictions: Predictions, rows: list[int], m: int, rate: int | None = None) -> Estimate:
        return pool_seeds(predictions.values[rows, m], predictions.replicates[rows, m], rate)

    settings = [
        Setting(
            label=labels[rows[0]],
            levels=combination,
            members=rows,
            seeds=[runs[i].seed for i in rows],
            validation=NO_VALIDATION if validation is None else pooled(validation, rows, AUROC),
            test={name: pooled(test, rows, m, trials.get(name)) for m, name in enumerate(METRICS)},
        )
        for combination, rows in members.items()
    ]
    settings.sort(key=lambda one: -1 if one.validation.value is None else one.validation.value, reverse=True)
    complete = all(one.validation.value is not None for one in settings)
    return TestSet(runs, indices, test, validation, settings, settings[0] if complete else None, duplicates)
