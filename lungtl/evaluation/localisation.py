"""Whether an aggregator weights the slices with nodules, compared with weights that ignore the image.

Only bags with both nodule and non-nodule slices, all of them labelled, are used. The two measures of a bag are the
share of its weight on nodule slices, and the average precision of ranking its slices by weight; both are averaged
over bags.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval, why_no_interval
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.document import Localisation, Measure
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.weighted import METRICS, Floats, Rows
from lungtl.sources.base import NON_NODULE

log = logging.getLogger(__name__)

MEASURES: tuple[Measure, ...] = ("share", "average_precision")
RULES = ("model", "uniform", "centre", "untrained")
BASELINES = ("centre", "untrained")  # the rules that the model is compared with, bag by bag
PRIOR_WIDTH = 0.25  # standard deviation of the centre prior, as a share of the bag's length


def mixed_bags(slices: pd.DataFrame) -> list[str]:
    """Bags with both nodule and non-nodule slices and no unknown one, in the table's order; given bag_id and label."""
    labels = slices.groupby("bag_id", sort=False)["label"]
    mixed = (labels.min() == NON_NODULE) & (labels.max() > NON_NODULE)
    return [str(bag_id) for bag_id in mixed.index[mixed]]


def weights_differ(slices: pd.DataFrame) -> bool:
    """Whether weights differ within any bag; given bag_id and weight of each slice."""
    weights = slices.groupby("bag_id")["weight"]
    return bool((weights.max() > weights.min()).any())


def localise(
    slices: pd.DataFrame,
    patient_ids: Mapping[str, str],
    untrained: pd.DataFrame | None = None,
    *,
    resamples: int = 1000,
) -> Localisation | None:
    """Compare the model's weights, and weights that ignore the image, with the labels of the slices.

    Args:
        slices: one row per slice: bag_id, index (0, 1, ... in a bag), label, weight; all slices of a bag.
        patient_ids: bag_id -> patient.
        untrained: bag_id, index, and one column weight... per random initialisation of the aggregator, for the bags
            of `mixed_bags`; their measures are averaged.
        resamples: of patients, for the 95 % intervals; 0 for none.

    Returns:
        None, with the reason in the log, where there is no such bag or all weights are equal.
    """
    rows = slices[slices["bag_id"].isin(mixed_bags(slices))]
    if rows.empty:
        log.info("weights are not compared with nodules: no scan has labelled slices both with and without a nodule")
        return None
    if not weights_differ(rows):
        log.info("weights are not compared with nodules: the aggregator weights all slices equally")
        return None
    counts = rows.groupby("bag_id")["index"].transform("size")
    table = rows[["bag_id", "index"]].assign(
        nodule=rows["label"] != NON_NODULE,
        model=rows["weight"],
        uniform=1 / counts,
        centre=rows.groupby("bag_id")["index"].transform(centre_prior),
    )
    columns = {name: [name] for name in RULES if name in table}
    if untrained is not None:
        columns["untrained"] = [name for name in map(str, untrained) if name.startswith("weight")]
        weights = untrained[["bag_id", "index", *columns["untrained"]]]
        table = table.merge(weights, on=["bag_id", "index"], validate="one_to_one")
    names = list(columns)
    bags = list(table.groupby("bag_id"))
    values = np.array([[_measures(bag, columns[name]) for name in names] for _, bag in bags])  # [B, rules, 2]
    # Equal weights rank nothing: the baseline is the precision of a random ranking, not that of one large tie.
    random_ranking = values[:, names.index("uniform"), MEASURES.index("average_precision")]
    random_ranking[:] = [chance_average_precision(int(bag["nodule"].sum()), len(bag)) for _, bag in bags]
    patients = patient_codes([patient_ids[str(bag_id)] for bag_id, _ in bags], len(bags))
    baselines = [name for name in BASELINES if name in names]
    gains = values[:, :1] - values[:, [names.index(name) for name in baselines]]  # the model is the first rule
    estimates = _estimates(np.concatenate([values, gains], axis=1), patients, resamples)
    return Localisation(
        n=len(bags),
        n_patients=int(patients.max()) + 1,
        n_slices=len(table),
        n_nodule_slices=int(table["nodule"].sum()),
        rules=dict(zip(names, estimates, strict=False)),  # type: ignore[arg-type]
        gains=dict(zip(baselines, estimates[len(names) :], strict=True)),  # type: ignore[arg-type]
    )


def centre_prior(index: ArrayLike) -> Floats:
    """Weight slices 0..S-1 by a Gaussian around the middle of their bag, float64 [S], sum 1.

    Its standard deviation is a quarter of the length.
    """
    positions = np.asarray(index, dtype=np.float64)
    distance = (positions - (len(positions) - 1) / 2) / (PRIOR_WIDTH * len(positions))
    weights = np.exp(-(distance**2) / 2)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def chance_average_precision(positive: int, n: int) -> float:
    """Mean average precision over all orders of n slices, of which `positive` (at least one) show a nodule.

    Each slice comes i-th with probability 1/n; if it shows a nodule, so do (positive - 1)/(n - 1) of those before
    it. Hence (1/n) sum_i (1 + (i - 1)(positive - 1)/(n - 1)) / i, which is above the share positive/n: 0.52 for one
    slice of four.
    """
    before = np.arange(n)
    share_before = (positive - 1) / max(n - 1, 1)  # a single slice has none before it
    return float(((1 + before * share_before) / (before + 1)).mean())


def _measures(bag: pd.DataFrame, columns: list[str]) -> Floats:
    """A bag's two measures, averaged over several columns of weights."""
    nodule = bag["nodule"].to_numpy()
    measures = []
    for column in columns:
        w = bag[column].to_numpy(np.float64)
        w = w / w.sum()  # float32 softmaxes sum to 1 only up to rounding
        ranking = Rows(nodule.astype(np.int64), w, 0.5).metrics(np.ones((1, len(w))))
        measures.append((w[nodule].sum(), ranking[METRICS.index("auprc"), 0]))
    return np.asarray(np.mean(measures, axis=0), dtype=np.float64)


def _estimates(values: Floats, patients: NDArray[np.int64], resamples: int) -> list[dict[Measure, Estimate]]:
    """Means of [B, K, measures] over the bags with their intervals, all from the same draws of patients."""
    columns = values.reshape(len(values), -1)
    means = columns.mean(axis=0)
    if reason := why_no_interval(resamples, int(patients.max()) + 1):
        estimates = [Estimate(float(mean), undefined=reason) for mean in means]
    else:
        replicates = patient_bootstrap(
            lambda weights: (weights @ columns).T / weights.sum(axis=1), patients, resamples=resamples, seed=0
        )
        low, high, _ = percentile_interval(replicates)
        estimates = [Estimate(float(mean), float(a), float(b)) for mean, a, b in zip(means, low, high, strict=True)]
    count = len(MEASURES)
    return [dict(zip(MEASURES, estimates[i : i + count], strict=True)) for i in range(0, len(estimates), count)]
