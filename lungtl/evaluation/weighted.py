"""The metrics themselves, for one set of rows under many weightings at once.

With weights that count how often a row was drawn, each weighting gives the metrics of one bootstrap replicate.

- auroc: the probability that a positive outranks a negative, a tie counting one half (Mann-Whitney).
- auprc: average precision, sum over thresholds of (recall step) x precision, equal probabilities being one threshold,
  as in scikit-learn's `average_precision_score`. No interpolation.
- ece: expected calibration error (Naeini et al., AAAI 2015), binary form: 10 equal-width bins of the POSITIVE class's
  probability, sum over bins of (share of rows) x |mean probability - share of positives|. For a perfectly calibrated
  model and 100 rows it is about 0.10, and resampling adds that bias once more.
- calibration_error: its debiased root-mean-square form (l2-CE of Kumar et al., NeurIPS 2019): in the same bins, sum
  over bins of (share of rows) x (mean probability - share of positives)^2, and its root. A bin's square is the mean
  product of the gaps (probability - label) of two of its rows from DIFFERENT patients, which is unbiased; a sum below 0
  counts as 0, bins without such a pair are omitted. For a perfectly calibrated model and 100 rows it is 0 more than
  half of the time and about 0.035 on average.
- brier: the mean squared difference between probability and label.
- The others count a row as positive when its probability is at least the threshold.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lungtl.evaluation.checks import check_threshold

METRICS: tuple[str, ...] = ("auroc", "auprc", "accuracy", "balanced_accuracy", "sensitivity", "specificity", "f1",
                            "brier", "ece", "calibration_error")  # fmt: skip
"""What is computed, in the order of display."""

CALIBRATION_BINS = 10
"""Equal-width bins of the calibration errors and of the reliability figure."""

Floats = NDArray[np.float64]
Patients = NDArray[np.int64]


def calibration_bin(probabilities: Floats) -> NDArray[np.int64]:
    """Bin 0..9 of each probability, int64 [N]; bin i is [i/10, (i+1)/10), the last includes 1."""
    # np.linspace would put 0.3 below its own edge; i/10 is the nearest float to the literal.
    edges = np.arange(1, CALIBRATION_BINS) / CALIBRATION_BINS
    return np.searchsorted(edges, probabilities, side="right").astype(np.int64)


class Rows:
    """Checked rows, ranked once and scored under any number of weightings.

    Args:
        labels: int64 [N], 0 or 1.
        probabilities: float64 [N] in [0, 1].
        threshold: rows with at least this probability are called positive.
        patients: int64 [N], the patient 0..P-1 of each row, whose rows must have the same weight; None where every
            row has its own patient.
    """

    def __init__(
        self, labels: NDArray[np.int64], probabilities: Floats, threshold: float, patients: Patients | None = None
    ) -> None:
        check_threshold(threshold)
        self._order = np.argsort(-probabilities, kind="stable")
        p = probabilities[self._order]
        self._starts = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
        self._positive = labels.astype(np.float64)[self._order]
        self._sums = _columns(labels.astype(np.float64), probabilities, probabilities >= threshold)
        patients = np.arange(len(labels)) if patients is None else patients
        self._first = np.unique(patients, return_index=True)[1]
        bins = calibration_bin(probabilities)
        self._counts = _patient_sums(patients, bins, np.ones(len(labels)))
        self._gaps = _patient_sums(patients, bins, probabilities - labels)

    def ranked(self, weights: Floats) -> tuple[Floats, Floats]:
        """Weight of positives and of negatives at each distinct probability, two [R, G]."""
        descending = weights[:, self._order]
        positive = descending * self._positive
        negative = descending - positive
        if len(self._starts) < len(self._order):
            positive = np.add.reduceat(positive, self._starts, axis=1)
            negative = np.add.reduceat(negative, self._starts, axis=1)
        return positive, negative

    def metrics(self, weights: Floats) -> Floats:
        """Compute float64 [len(METRICS), R] for weights [R, N], not negative; the caller bounds R.

        A metric is NaN where the weighted rows leave it undefined: no positive for sensitivity and f1, no negative for
        specificity, either one for auroc, auprc and balanced_accuracy, no bin with rows of two patients for
        calibration_error, no row at all for the rest.
        """
        sums = weights @ self._sums
        tp, fn, fp, tn, squared = sums[:, :5].T
        gaps = np.abs(sums[:, 5:]).sum(axis=1)
        total = tp + fn + fp + tn
        sensitivity = ratio(tp, tp + fn)
        specificity = ratio(tn, tn + fp)
        values = {
            **self._ranking_metrics(weights),
            "accuracy": ratio(tp + tn, total),
            "balanced_accuracy": (sensitivity + specificity) / 2,
            "sensitivity": sensitivity,
            "specificity": specificity,
            "f1": np.where(tp + fn > 0, ratio(2 * tp, 2 * tp + fp + fn), np.nan),
            "brier": ratio(squared, total),
            "ece": ratio(gaps, total),
            "calibration_error": self._calibration_error(weights),
        }
        return np.stack([values[name] for name in METRICS])

    def _calibration_error(self, weights: Floats) -> Floats:
        weights = weights[:, self._first]
        counts = weights @ self._counts
        # All pairs of rows minus those within a patient.
        pairs = counts**2 - weights**2 @ self._counts**2
        products = (weights @ self._gaps) ** 2 - weights**2 @ self._gaps**2
        counts[pairs == 0] = 0
        squared = np.divide(products, pairs, out=np.zeros_like(pairs), where=pairs > 0)
        return np.sqrt(np.maximum(ratio((counts * squared).sum(axis=1), counts.sum(axis=1)), 0))

    def _ranking_metrics(self, weights: Floats) -> dict[str, Floats]:
        positive, negative = self.ranked(weights)
        tp = np.cumsum(positive, axis=1)
        fp = np.cumsum(negative, axis=1)
        pairs = tp[:, -1] * fp[:, -1]
        # Each negative loses to the positives above it, and half to those that share its probability.
        won = np.einsum("rg,rg->r", negative, tp) - 0.5 * np.einsum("rg,rg->r", negative, positive)
        np.add(tp, fp, out=fp)
        # Nothing drawn so far: the precision is 0/0, but no recall is gained there either.
        np.divide(tp, fp, out=tp, where=fp > 0)
        gained = np.einsum("rg,rg->r", positive, tp)
        return {
            "auroc": ratio(won, pairs),
            "auprc": np.where(pairs > 0, ratio(gained, positive.sum(axis=1)), np.nan),
        }


def _columns(y: Floats, p: Floats, called: NDArray[np.bool_]) -> Floats:
    """Columns that one matrix product sums: tp, fn, fp, tn, squared error, the gap of each bin."""
    bins = calibration_bin(p)[:, None] == np.arange(CALIBRATION_BINS)
    counts = [y * called, y * ~called, (1 - y) * called, (1 - y) * ~called]
    return np.column_stack([*counts, (p - y) ** 2, bins * (p - y)[:, None]])


def _patient_sums(patients: NDArray[np.int64], bins: NDArray[np.int64], values: Floats) -> Floats:
    """Sum the values of each patient in each bin, float64 [P, CALIBRATION_BINS]."""
    shape = (int(patients.max()) + 1, CALIBRATION_BINS)
    cells = np.bincount(patients * CALIBRATION_BINS + bins, values, shape[0] * shape[1])
    return np.asarray(cells.reshape(shape), dtype=np.float64)


def ratio(above: Floats, below: Floats) -> Floats:
    """Divide; NaN, without a warning, where `below` is 0."""
    quotient = np.full(below.shape, np.nan)
    np.divide(above, below, out=quotient, where=below > 0)
    return quotient
