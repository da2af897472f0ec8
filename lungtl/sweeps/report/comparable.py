"""Runs that were tested on the same patients, their settings with the seeds pooled, and which is best on validation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from lungtl.evaluation.bootstrap import patient_bootstrap
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.metrics import estimate, trials
from lungtl.evaluation.seeds import summarise
from lungtl.evaluation.weighted import weighted_metrics
from lungtl.sweeps.report.finished import Run

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]

RESAMPLES = 1000
METRICS = ("auroc", "auprc", "sensitivity", "specificity", "brier")
"""What is said of a setting, of the names in `lungtl.evaluation.weighted.METRICS`."""
AUROC = METRICS.index("auroc")


@dataclass(frozen=True)
class Bags:
    """What K runs say of the same N bags.

    Attributes:
        labels: int64 [N], 0 or 1.
        patient_ids: N.
        probabilities: float64 [K, N].
        values: float64 [K, len(METRICS)], each run's metrics; NaN where undefined.
        replicates: float64 [K, len(METRICS), R], the same on R resamples of the patients, the same for all runs.
    """

    labels: NDArray[np.int64]
    patient_ids: list[str]
    probabilities: Floats
    values: Floats
    replicates: Floats


@dataclass(frozen=True)
class Score:
    """A metric of a setting.

    Attributes:
        value: mean over the seeds; None where undefined.
        low: lower end of its 95 % interval from resampling patients; None when there is none.
        high: upper end.
        sd: standard deviation between the seeds; None for one seed.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    sd: float | None = None


@dataclass(frozen=True)
class Setting:
    """Runs that differ in nothing but the seed.

    Attributes:
        label: what tells it from the other settings.
        levels: of the factors, in their order.
        members: places of its runs among those of the test set.
        seeds: of these runs.
        validation: AUROC on the validation bags.
        test: name in `METRICS` -> score on the test bags.
    """

    label: str
    levels: tuple[str, ...]
    members: list[int]
    seeds: list[int]
    validation: Score
    test: dict[str, Score]


@dataclass(frozen=True)
class Again:
    """A run of a setting and a seed that an earlier run has already; it is no further seed, and counts nowhere.

    Attributes:
        setting: its label.
        place: of the run among those of the test set.
        first: place of the run that counts.
    """

    setting: str
    place: int
    first: int


@dataclass(frozen=True)
class TestSet:
    """Runs with the same split and the same labels of the test bags.

    Attributes:
        runs: K of them.
        places: of these among all finished runs of the sweep.
        test: what they say of the test bags.
        validation: of the validation bags; None where a run did not keep that.
        settings: the best validation AUROC first, those without one last.
        best: the one chosen on validation; None where a setting has no validation AUROC.
        again: runs that repeat another one.
    """

    __test__ = False  # pytest would take it for a test

    runs: list[Run]
    places: list[int]
    test: Bags
    validation: Bags | None
    settings: list[Setting]
    best: Setting | None
    again: list[Again]


def by_test_set(runs: Sequence[Run], names: Sequence[str], levels: Sequence[tuple[str, ...]]) -> list[TestSet]:
    """Part runs by what they were tested on, the set with most runs first.

    Args:
        runs: finished.
        names: of the setting of each run.
        levels: of the factors, of each run.

    Returns:
        The test sets. Numbers of different ones must not be compared.
    """
    groups: dict[tuple[object, ...], list[int]] = {}
    for i, run in enumerate(runs):
        said = run.test[["bag_id", "patient_id", "label"]].to_numpy().tolist()
        groups.setdefault((run.split_fingerprint, *map(tuple, said)), []).append(i)
    ordered = sorted(groups.values(), key=lambda members: (-len(members), members[0]))
    return [
        _test_set(own, [runs[i] for i in own], [names[i] for i in own], [levels[i] for i in own]) for own in ordered
    ]


def score_bags(tables: Sequence[pd.DataFrame], thresholds: Sequence[float]) -> Bags:
    """Score what runs say of the same bags.

    Args:
        tables: bag_id, patient_id, label, probability of each run; the rows of all are of the same bags.
        thresholds: of each run, from which probability on it calls a bag positive.

    Returns:
        The scores, and the same on resampled patients; those are NaN for fewer than two patients.
    """
    labels = tables[0]["label"].to_numpy(np.int64)
    patient_ids = tables[0]["patient_id"].tolist()
    patients = patient_codes(patient_ids, len(labels))
    probabilities = np.stack([table["probability"].to_numpy(np.float64) for table in tables])

    def statistic(weights: Floats) -> Floats:
        rows = zip(probabilities, thresholds, strict=True)
        of_runs = [weighted_metrics(labels, p, weights, threshold, patients) for p, threshold in rows]
        return np.concatenate([np.stack([metrics[name] for name in METRICS]) for metrics in of_runs])

    shape = (len(tables), len(METRICS))
    replicates = np.full((*shape, RESAMPLES), np.nan)
    if patients.max() > 0:
        replicates = patient_bootstrap(statistic, patients, resamples=RESAMPLES, seed=0).reshape(*shape, RESAMPLES)
    values = statistic(np.ones((1, len(labels)))).reshape(shape)
    return Bags(labels, patient_ids, probabilities, values, replicates)


def pool(values: Floats, replicates: Floats, of_trials: int | None = None) -> Score:
    """The mean of a metric over seeds.

    A rate of 0 or 1 of all seeds has the exact binomial interval, as that of a single seed has: all seeds are right
    about a patient at most as often as one of them is on average. Where each seed gives the same 0 or 1 on every
    resample there is no interval otherwise, nor for a difference of 0, 1 or -1.

    Args:
        values: float64 [S], of each seed; the mean is undefined where one is NaN.
        replicates: float64 [S, R], on the same resamples of the patients.
        of_trials: the patients whose bags a rate is of; None for what is no rate.
    """
    if np.isnan(values).any():
        return Score(None)
    spread = summarise(values)
    one = estimate(spread.mean, replicates.mean(axis=0), of_trials)
    if spread.mean not in (0, 1) or of_trials is None:
        stuck = np.isin(values, (-1, 0, 1)) & ((replicates == values[:, None]) | np.isnan(replicates)).all(axis=1)
        if stuck.all():
            return Score(spread.mean, sd=spread.sd)
    return Score(spread.mean, one.low, one.high, spread.sd)


def _test_set(places: list[int], runs: list[Run], names: list[str], levels: list[tuple[str, ...]]) -> TestSet:
    thresholds = [float(run.document["bag"]["threshold"]) for run in runs]
    test = score_bags([run.test for run in runs], thresholds)
    kept = [run.validation for run in runs if run.validation is not None and len(run.validation)]
    validation = score_bags(kept, thresholds) if len(kept) == len(runs) else None
    members: dict[tuple[str, ...], list[int]] = {}
    first: dict[tuple[tuple[str, ...], int], int] = {}
    again = []
    for i, own in enumerate(levels):
        if first.setdefault((own, runs[i].seed), i) == i:
            members.setdefault(own, []).append(i)
        else:
            again.append(Again(names[i], i, first[own, runs[i].seed]))
    of_rates = trials(test.labels, patient_codes(test.patient_ids, len(test.labels)))
    settings = [
        Setting(
            names[of[0]], own, of, [runs[i].seed for i in of],
            Score(None) if validation is None else pool(validation.values[of, AUROC], validation.replicates[of, AUROC]),
            {
                name: pool(test.values[of, m], test.replicates[of, m], of_rates.get(name))
                for m, name in enumerate(METRICS)
            },
        )
        for own, of in members.items()
    ]  # fmt: skip
    settings.sort(
        key=lambda setting: -1 if setting.validation.value is None else setting.validation.value, reverse=True
    )
    chosen = all(setting.validation.value is not None for setting in settings)
    return TestSet(runs, places, test, validation, settings, settings[0] if chosen else None, again)
