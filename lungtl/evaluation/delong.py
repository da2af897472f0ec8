"""AUROC with an analytic interval, and the comparison of two models' AUROCs, allowing for several bags per patient.

DeLong, DeLong & Clarke-Pearson, Biometrics 44 (1988) 837, by the ranks of Sun & Xu, IEEE Signal Processing Letters
21 (2014) 1389; the variance is Obuchowski's for clustered data, Biometrics 53 (1997) 567, with patients as clusters.
With one bag per patient it is DeLong's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, ndtr
from scipy.stats import rankdata

from lungtl.evaluation.checks import check_labels, check_probabilities, check_rows, one_class, patient_codes
from lungtl.evaluation.estimate import DelongAuroc, Difference

Floats = NDArray[np.float64]

NORMAL_QUANTILE = 1.959963984540054
"""Of 97.5 %: the half width of a 95 % interval in standard errors."""

NO_VARIANCE = 1e-26
"""Below the smallest variance that 100,000 bags can have, above what rounding leaves of none."""

CANCELLED = 1e-12
"""Terms of a variance that sum to a smaller share of their size have cancelled but for rounding."""

SAME_PLACEMENT = 1e-12
"""Largest difference in mean placements that rounding explains; true ones of 100,000 bags are larger."""


def auroc_interval(labels: ArrayLike, probabilities: ArrayLike, patient_ids: Iterable[object]) -> DelongAuroc:
    """Compute the AUROC with a 95 % interval.

    The interval is symmetric in the logit of the AUROC (Pepe 2003, section 5.2): it stays inside (0, 1), and for the
    high AUROCs of small test sets it covers the truth more often than value +- 1.96 standard errors.

    There is none where the estimated variance is 0, as for an AUROC of 0 or 1 (the data do not show how far from 1 the
    truth is; [1, 1] would be wrong), nor where one patient has all rows of a class.
    """
    y, p, patients = check_rows(labels, probabilities, patient_ids)
    if y.min() == y.max():
        return DelongAuroc(None, undefined=one_class(y))
    placements = _placements(y, p)
    value = float(placements[y == 1].mean())
    if reason := _too_few_patients(y, patients):
        return DelongAuroc(value, undefined=f"no interval: {reason}")
    variance = _variance(y, placements, patients)
    if variance < NO_VARIANCE:
        return DelongAuroc(value, undefined=f"no interval: the variance of an AUROC of {value:g} is estimated as 0")
    error = float(np.sqrt(variance))
    centre = np.log(value / (1 - value))
    half = NORMAL_QUANTILE * error / (value * (1 - value))
    return DelongAuroc(value, float(expit(centre - half)), float(expit(centre + half)), standard_error=error)


def compare_aurocs(labels: ArrayLike, first: ArrayLike, second: ArrayLike, patient_ids: Iterable[object]) -> Difference:
    """Compare the AUROCs of two models on the same bags: first minus second, as `compare_mean_aurocs`."""
    return compare_mean_aurocs(labels, [first], [second], patient_ids)


def compare_mean_aurocs(
    labels: ArrayLike, firsts: Sequence[ArrayLike], seconds: Sequence[ArrayLike], patient_ids: Iterable[object]
) -> Difference:
    """Compare the mean AUROCs of two groups of models on the same bags, such as the seeds of two settings.

    The groups' probabilities are any number of float [N] in [0, 1]; the result is the mean of the first group minus
    that of the second. Placements are averaged over the models of a group. The difference divided by its standard
    error, which allows for the correlation of the models, is taken as standard normal. The test generalises to other
    patients, not to other seeds. Groups that rank all bags alike have a p-value of 1 and no interval.
    """
    y = check_labels(labels)
    sides = [[check_probabilities(model, len(y)) for model in models] for models in (firsts, seconds)]
    patients = patient_codes(patient_ids, len(y))
    if y.min() == y.max():
        return Difference(None, undefined=one_class(y))
    # The variance is a quadratic form, so that of a difference is the form of the differences.
    means = [np.mean([_placements(y, model) for model in models], axis=0) for models in sides]
    placements = means[0] - means[1]
    difference = float(placements[y == 1].mean())
    if np.abs(placements).max() < SAME_PLACEMENT:
        return Difference(0.0, p_value=1.0, undefined="no interval: both models rank all cases alike")
    if reason := _too_few_patients(y, patients):
        return Difference(difference, undefined=f"no interval and no p-value: {reason}")
    variance = _variance(y, placements, patients)
    if variance < NO_VARIANCE:
        return Difference(difference, undefined="no interval and no p-value: the estimated variance is 0")
    error = float(np.sqrt(variance))
    low, high = np.clip([difference - NORMAL_QUANTILE * error, difference + NORMAL_QUANTILE * error], -1, 1)
    return Difference(difference, float(low), float(high), float(2 * ndtr(-abs(difference) / error)))


def _placements(y: NDArray[np.int64], p: Floats) -> Floats:
    """Give each row the share of the other class that it is ranked correctly against, a tie counting one half.

    For a positive those are the negatives below it, for a negative the positives above it; the mean over either
    class is the AUROC.
    """
    among_all = rankdata(p)
    positive = y == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    placements = np.empty(len(y))
    placements[positive] = (among_all[positive] - rankdata(p[positive])) / n_negative
    placements[~positive] = 1 - (among_all[~positive] - rankdata(p[~positive])) / n_positive
    return placements


def _variance(y: NDArray[np.int64], placements: Floats, patients: NDArray[np.int64]) -> float:
    """Obuchowski's variance of the mean placement, with a cross term for patients who have both classes.

    It is exactly 0 where the terms cancel, and can be negative.
    """
    positive = y == 1
    deviations = np.where(positive, placements - placements[positive].mean(), placements - placements[~positive].mean())
    n_patients = int(patients.max()) + 1
    terms, sums = [], []
    for rows in (positive, ~positive):
        patient_sums = np.bincount(patients[rows], deviations[rows], n_patients) / rows.sum()
        n_with = len(np.unique(patients[rows]))
        terms.append(n_with / (n_with - 1) * float(patient_sums @ patient_sums))
        sums.append(patient_sums)
    terms.append(2 * n_patients / (n_patients - 1) * float(sums[0] @ sums[1]))
    variance = sum(terms)
    return 0.0 if abs(variance) < CANCELLED * sum(map(abs, terms)) else variance


def _too_few_patients(y: NDArray[np.int64], patients: NDArray[np.int64]) -> str:
    """Which class has only one patient; empty where both have more."""
    for name, label in (("positive", 1), ("negative", 0)):
        if len(np.unique(patients[y == label])) == 1:
            return f"only one patient with a {name}"
    return ""
