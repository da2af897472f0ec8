"""AUROC with an analytic interval, and two models' AUROCs compared, where bags of one patient may be alike.

DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837, by the ranks of Sun & Xu, IEEE Signal Processing Letters
21 (2014) 1389; the variance is Obuchowski's for clustered data, Biometrics 53 (1997) 567, with patients as clusters.
With one bag a patient it is DeLong's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.checks import check_labels, check_probabilities, patient_codes

Floats = NDArray[np.float64]

NORMAL_QUANTILE = 1.959963984540054
"""Of 97.5 %: the half width of a 95 % interval in standard errors."""

NO_VARIANCE = 1e-26
"""Below the least variance that 100,000 bags can have, above what rounding leaves of none."""

CANCELLED = 1e-12
"""A smaller share of the terms of a variance than this is what rounding leaves where they cancel."""

ALIKE = 1e-12
"""What rounding may leave of no difference between mean placements; true ones of 100,000 bags are larger."""


@dataclass(frozen=True)
class Interval:
    """An AUROC.

    Attributes:
        value: None where there is one class.
        low: lower end of the 95 % interval; None when there is none.
        high: upper end.
        standard_error: of `value`; None when there is no interval.
        undefined: why the value, or only the interval, is missing; None when nothing is.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    standard_error: float | None = None
    undefined: str | None = None


@dataclass(frozen=True)
class PairedAuroc:
    """The AUROC of a first model less that of a second one on the same bags.

    Attributes:
        difference: None where there is one class.
        low: lower end of the 95 % interval; None when there is none.
        high: upper end.
        p_value: two-sided, of no difference; None when it is undefined.
        undefined: why something is missing; None when nothing is.
    """

    difference: float | None
    low: float | None = None
    high: float | None = None
    p_value: float | None = None
    undefined: str | None = None


def auroc_interval(labels: ArrayLike, probabilities: ArrayLike, patient_ids: Iterable[object]) -> Interval:
    """Compute the AUROC with a 95 % interval.

    The interval is symmetric in the logit of the AUROC (Pepe 2003, section 5.2): it stays inside (0, 1), and for the
    high AUROCs of small test sets it covers the truth more often than value +- 1.96 standard errors.

    Args:
        labels: int [N], 0 or 1.
        probabilities: float [N] in [0, 1], of the positive class.
        patient_ids: one id a row; rows of one patient may be correlated.

    Returns:
        The AUROC. There is no interval where the estimated variance is 0, as for an AUROC of 0 or 1 (the data do not
        say how far from 1 the truth is; [1, 1] would be wrong), nor where one patient has all rows of a class.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    from scipy.special import expit

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    patients = patient_codes(patient_ids, len(y))
    if y.min() == y.max():
        return Interval(None, undefined=_one_class(y))
    placements = _placements(y, p)
    value = float(placements[y == 1].mean())
    if reason := _too_few_patients(y, patients):
        return Interval(value, undefined=f"no interval: {reason}")
    variance = _variance(y, placements, patients)
    if variance < NO_VARIANCE:
        return Interval(value, undefined=f"no interval: the variance of an AUROC of {value:g} is estimated as 0")
    error = float(np.sqrt(variance))
    centre = np.log(value / (1 - value))
    half = NORMAL_QUANTILE * error / (value * (1 - value))
    return Interval(value, float(expit(centre - half)), float(expit(centre + half)), error)


def compare_aurocs(
    labels: ArrayLike, first: ArrayLike, second: ArrayLike, patient_ids: Iterable[object]
) -> PairedAuroc:
    """Compare the AUROCs of two models on the same bags.

    The difference over its standard error, which allows for the correlation of the models, is taken as standard
    normal.

    Args:
        labels: int [N], 0 or 1.
        first: float [N] in [0, 1], the first model's probabilities.
        second: likewise, the second model's.
        patient_ids: one id a row; rows of one patient may be correlated.

    Returns:
        The difference first - second. Two models that place every bag alike have a p-value of 1 and no interval.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    return compare_mean_aurocs(labels, [first], [second], patient_ids)


def compare_mean_aurocs(
    labels: ArrayLike, firsts: Sequence[ArrayLike], seconds: Sequence[ArrayLike], patient_ids: Iterable[object]
) -> PairedAuroc:
    """Compare the mean AUROC of some models with that of others on the same bags, as the seeds of two settings.

    The placements of each side are averaged over its models. Nothing is said of further seeds: the test is of these
    models, on other patients.

    Args:
        labels: int [N], 0 or 1.
        firsts: float [N] in [0, 1] each, the probabilities of the models of the first side.
        seconds: likewise, of the second side; as many or not.
        patient_ids: one id a row; rows of one patient may be correlated.

    Returns:
        As `compare_aurocs`, of the means; with one model a side it is the same.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    from scipy.special import ndtr

    y = check_labels(labels)
    sides = [[check_probabilities(model, len(y)) for model in models] for models in (firsts, seconds)]
    patients = patient_codes(patient_ids, len(y))
    if y.min() == y.max():
        return PairedAuroc(None, undefined=_one_class(y))
    # The variance is a quadratic form, so that of a difference is the form of the differences.
    of_sides = [np.mean([_placements(y, model) for model in models], axis=0) for models in sides]
    placements = of_sides[0] - of_sides[1]
    difference = float(placements[y == 1].mean())
    if np.abs(placements).max() < ALIKE:
        return PairedAuroc(0.0, p_value=1.0, undefined="no interval: both models place every bag alike")
    if reason := _too_few_patients(y, patients):
        return PairedAuroc(difference, undefined=f"no interval and no p-value: {reason}")
    variance = _variance(y, placements, patients)
    if variance < NO_VARIANCE:
        return PairedAuroc(difference, undefined="no interval and no p-value: the estimated variance is 0")
    error = float(np.sqrt(variance))
    low, high = np.clip([difference - NORMAL_QUANTILE * error, difference + NORMAL_QUANTILE * error], -1, 1)
    return PairedAuroc(difference, float(low), float(high), float(2 * ndtr(-abs(difference) / error)))


def _placements(y: NDArray[np.int64], p: Floats) -> Floats:
    """Give each row the share of the other class on its right side, a tie counting one half.

    For a positive those are the negatives below it, for a negative the positives above it; the mean over either
    class is the AUROC.
    """
    from scipy.stats import rankdata

    among_all = rankdata(p)
    positive = y == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    placements = np.empty(len(y))
    placements[positive] = (among_all[positive] - rankdata(p[positive])) / n_negative
    placements[~positive] = 1 - (among_all[~positive] - rankdata(p[~positive])) / n_positive
    return placements


def _variance(y: NDArray[np.int64], placements: Floats, patients: NDArray[np.int64]) -> float:
    """Obuchowski's variance of the mean placement, whose two classes' terms meet in patients that have both.

    It is exactly 0 where the terms cancel, and can be negative.
    """
    positive = y == 1
    deviations = np.where(positive, placements - placements[positive].mean(), placements - placements[~positive].mean())
    n_patients = int(patients.max()) + 1
    terms, sums = [], []
    for rows in (positive, ~positive):
        of_patients = np.bincount(patients[rows], deviations[rows], n_patients) / rows.sum()
        n_with = len(np.unique(patients[rows]))
        terms.append(n_with / (n_with - 1) * float(of_patients @ of_patients))
        sums.append(of_patients)
    terms.append(2 * n_patients / (n_patients - 1) * float(sums[0] @ sums[1]))
    variance = sum(terms)
    return 0.0 if abs(variance) < CANCELLED * sum(map(abs, terms)) else variance


def _too_few_patients(y: NDArray[np.int64], patients: NDArray[np.int64]) -> str:
    """Say which class has only one patient; empty where both have more."""
    for name, label in (("positive", 1), ("negative", 0)):
        if len(np.unique(patients[y == label])) == 1:
            return f"only one patient with a {name}"
    return ""


def _one_class(y: NDArray[np.int64]) -> str:
    return f"only one class: {int(y.sum())} of {len(y)} positive"
