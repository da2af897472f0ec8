"""Whether an aggregator's weights lie where the nodules are, beside weights that know nothing of the image.

Only bags whose slices are all labelled, some with a nodule and some without, can tell. A bag's two measures are the
share of its weight that falls on slices with a nodule, and the average precision of ranking its slices by weight. Both
are averaged over bags.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.bootstrap import patient_bootstrap, percentile_interval
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.metrics import Estimate
from lungtl.evaluation.weighted import weighted_metrics
from lungtl.sources.base import NON_NODULE

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)

MEASURES = ("share", "average_precision")
RULES = ("model", "uniform", "centre", "untrained")
BEATEN = ("centre", "untrained")  # the rules that the model is compared with, bag by bag
PRIOR_WIDTH = 0.25  # standard deviation of the centre-of-volume prior, as a share of the bag's length


@dataclass(frozen=True)
class Localisation:
    """How much weight falls on true nodule slices.

    Attributes:
        n: bags.
        n_patients: what the intervals resample.
        n_slices: of those bags.
        n_nodule_slices: likewise, with a nodule.
        rules: name in `RULES` (untrained only where it was given) -> name in `MEASURES` -> mean over the bags.
        gains: "centre" and "untrained" -> name in `MEASURES` -> the model's mean less that rule's, on the same draws.
    """

    n: int
    n_patients: int
    n_slices: int
    n_nodule_slices: int
    rules: Mapping[str, Mapping[str, Estimate]]
    gains: Mapping[str, Mapping[str, Estimate]]

    def to_dict(self) -> dict[str, object]:
        """Give plain JSON values."""
        plain = {
            part: {rule: {name: asdict(one) for name, one in table.items()} for rule, table in tables.items()}
            for part, tables in (("rules", self.rules), ("gains", self.gains))
        }
        return asdict(self) | plain


def telling_bags(slices: pd.DataFrame) -> list[str]:
    """Name the bags that can tell, in the table's order.

    Args:
        slices: a row a slice with bag_id and label (-1 unknown, 0 non-nodule, 1 and 2 a nodule).
    """
    labels = slices.groupby("bag_id", sort=False)["label"]
    told = (labels.min() == NON_NODULE) & (labels.max() > NON_NODULE)
    return [str(bag_id) for bag_id in told.index[told]]


def weights_differ(slices: pd.DataFrame) -> bool:
    """Whether weights differ within any bag, given a row a slice with bag_id and weight."""
    weights = slices.groupby("bag_id")["weight"]
    return bool((weights.max() > weights.min()).any())


def localise(
    slices: pd.DataFrame,
    patient_ids: Mapping[str, str],
    untrained: pd.DataFrame | None = None,
    *,
    resamples: int = 1000,
    seed: int = 0,
) -> Localisation | None:
    """Compare the model's weights with the labels of the slices, and other weights with them too.

    Args:
        slices: a row a slice: bag_id, index (0, 1, ... in a bag), label, weight; all slices of a bag.
        patient_ids: of every bag.
        untrained: bag_id, index, and a column weight... for each time that the aggregator was initialised, of the bags
            that can tell; their measures are averaged.
        resamples: of patients, for the 95 % intervals; 0 leaves them out.
        seed: of the draws.

    Returns:
        None, and the reason in the log, where no bag can tell or all weights are the same.
    """
    told = slices[slices["bag_id"].isin(telling_bags(slices))]
    if told.empty:
        log.info("weights are not compared with nodules: no bag has labelled slices both with and without one")
        return None
    if not weights_differ(told):
        log.info("weights are not compared with nodules: the aggregator weighs all slices of a bag the same")
        return None
    counts = told.groupby("bag_id")["index"].transform("size")
    table = told[["bag_id", "index"]].assign(
        nodule=told["label"] != NON_NODULE,
        model=told["weight"],
        uniform=1 / counts,
        centre=told.groupby("bag_id")["index"].transform(centre_prior),
    )
    columns = {name: [name] for name in RULES if name in table}
    if untrained is not None:
        columns["untrained"] = [name for name in map(str, untrained) if name.startswith("weight")]
        given = untrained[["bag_id", "index", *columns["untrained"]]]
        table = table.merge(given, on=["bag_id", "index"], validate="one_to_one")
    names = list(columns)
    bags = list(table.groupby("bag_id"))
    values = np.array([[_measures(own, columns[name]) for name in names] for _, own in bags])  # [B, rules, 2]
    # Equal weights rank nothing. What a model has to beat is not the precision of one tie, but a ranking by chance.
    ranking = values[:, names.index("uniform"), MEASURES.index("average_precision")]
    ranking[:] = [chance_average_precision(int(own["nodule"].sum()), len(own)) for _, own in bags]
    patients = patient_codes([patient_ids[str(bag_id)] for bag_id, _ in bags], len(bags))
    beaten = [name for name in BEATEN if name in names]
    gains = values[:, :1] - values[:, [names.index(name) for name in beaten]]  # the model is the first rule
    found = _estimates(np.concatenate([values, gains], axis=1), patients, resamples, seed)
    return Localisation(
        n=len(bags),
        n_patients=int(patients.max()) + 1,
        n_slices=len(table),
        n_nodule_slices=int(table["nodule"].sum()),
        rules=dict(zip(names, found, strict=False)),
        gains=dict(zip(beaten, found[len(names) :], strict=True)),
    )


def centre_prior(index: ArrayLike) -> NDArray[np.float64]:
    """Weigh slices by a Gaussian around the middle of their bag, its standard deviation a quarter of the bag's length.

    Args:
        index: int [S], all of 0..S-1.

    Returns:
        float64 [S], sum 1.
    """
    places = np.asarray(index, dtype=np.float64)
    away = (places - (len(places) - 1) / 2) / (PRIOR_WIDTH * len(places))
    weights = np.exp(-(away**2) / 2)
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def chance_average_precision(positive: int, n: int) -> float:
    """The mean average precision over all orders of n slices, of which `positive` (at least one) have a nodule.

    Which slice comes i-th is chance: each has probability 1/n, and if it is one with a nodule, (positive - 1)/(n - 1)
    of those before it are, too. Hence (1/n) sum_i (1 + (i - 1)(positive - 1)/(n - 1)) / i, which is above the share
    positive/n: 0.52 for one slice of four.
    """
    before = np.arange(n)
    others = (positive - 1) / max(n - 1, 1)  # of one slice none comes before it
    return float(((1 + before * others) / (before + 1)).mean())


def _measures(bag: pd.DataFrame, columns: list[str]) -> NDArray[np.float64]:
    """A bag's two measures, the mean over several columns of weights."""
    nodule = bag["nodule"].to_numpy()
    measures = []
    for column in columns:
        w = bag[column].to_numpy(np.float64)
        w = w / w.sum()  # float32 softmaxes sum to 1 but for rounding
        ranking = weighted_metrics(nodule.astype(np.int64), w, np.ones((1, len(w))))
        measures.append((w[nodule].sum(), ranking["auprc"][0]))
    return np.asarray(np.mean(measures, axis=0), dtype=np.float64)


def _estimates(
    values: NDArray[np.float64], patients: NDArray[np.int64], resamples: int, seed: int
) -> list[dict[str, Estimate]]:
    """The means of [B, K, measures] over the bags with their intervals, all from the same draws of patients."""
    columns = values.reshape(len(values), -1)
    means = columns.mean(axis=0)
    if resamples == 0 or patients.max() == 0:
        reason = "resamples is 0" if resamples == 0 else "only one patient"
        estimates = [Estimate(float(mean), undefined=f"no interval: {reason}") for mean in means]
    else:
        drawn = patient_bootstrap(
            lambda weights: (weights @ columns).T / weights.sum(axis=1), patients, resamples=resamples, seed=seed
        )
        low, high, _ = percentile_interval(drawn)
        estimates = [Estimate(float(mean), float(a), float(b)) for mean, a, b in zip(means, low, high, strict=True)]
    count = len(MEASURES)
    return [dict(zip(MEASURES, estimates[i : i + count], strict=True)) for i in range(0, len(estimates), count)]
