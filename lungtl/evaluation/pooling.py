"""Out-of-fold predictions: the test folds of a cross-validation put together, every patient predicted exactly once.

Each fold was predicted by a model that neither trained on it nor chose its epoch, calibration or threshold by it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.covariates import WITH_COVARIATES
from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.estimate import Difference, mean_and_sd
from lungtl.evaluation.metrics import score
from lungtl.evaluation.weighted import METRICS
from lungtl.settings.errors import LungtlError

CONTROL = "control_"
"""Prefix of the columns of controls."""

PREVALENCE = "control_prevalence"

RUN_CONTROLS = ("untrained", "probe")
"""Controls of a single run, by its setting: columns of its predictions.csv. Others depend on data and split alone."""

NO_TEST = "no p-value: the folds' models share training patients, so a test would assume too much independence"


@dataclass(frozen=True)
class Fold:
    """The results of one run of a cross-validation."""

    number: int  # which fold it tested
    split: pd.DataFrame  # bag_id, patient_id, label (0 or 1), diameter_mm, split of all labelled bags
    # bag_id, probability of its test bags; calibrated, unless the calibration is "none"; where the run has them,
    # probability_with_covariates and control_NAME of those of `RUN_CONTROLS`
    predictions: pd.DataFrame
    metrics: Mapping[str, float | None]  # name in `METRICS` -> the run's value on its test bags, None where undefined
    calibration: str = "none"  # its kind, fitted on the fold's own validation bags
    covariates: Sequence[str] = ()  # of its run


def pool_folds(folds: Sequence[Fold]) -> pd.DataFrame:
    """Put the test predictions of all folds together.

    Returns:
        One row per labelled bag, sorted by bag_id: bag_id, patient_id, label, probability, fold; calibrated, where
        the folds share a kind of calibration; probability_with_covariates, where all folds have it; and
        `control_NAME` for each control that all folds allow, fitted on the fold's training bags. Prevalence is one
        constant, the mean of the folds' training shares: the more positives a fold tests, the fewer it was trained on,
        so that the share of each fold would rank the pooled bags backwards (Parker et al. 2007).

    Raises:
        LungtlError: a patient is tested by two folds or by none, a fold's predictions are not those of its test bags,
            or the folds have different bags.
    """
    first = folds[0]
    predicted = ["probability"] if shared_calibration(folds) == "none" else ["probability", "calibrated"]
    parts = []
    for fold in folds:
        if not _bags(fold).equals(_bags(first)):
            raise LungtlError(
                f"folds {first.number} and {fold.number} have different cases or labels; run all folds on one dataset"
            )
        test = fold.split[fold.split["split"] == "test"]
        if sorted(fold.predictions["bag_id"]) != sorted(test["bag_id"]):
            raise LungtlError(
                f"fold {fold.number} has predictions of {len(fold.predictions)} cases, which are not exactly its "
                f"{len(test)} test cases; rerun it"
            )
        part = test.merge(fold.predictions, on="bag_id", suffixes=("", "_"), validate="one_to_one")
        fitted = fit_controls(fold.split[fold.split["split"] == "train"]).predict(part)
        part = part.assign(fold=fold.number, **{CONTROL + name: values for name, values in fitted.items()})
        further = [WITH_COVARIATES, *(CONTROL + name for name in (*fitted, *RUN_CONTROLS))]
        further = [column for column in further if column in part]
        parts.append(part[["bag_id", "patient_id", "label", *predicted, "fold", *further]])
    pooled = pd.concat(parts, join="inner", ignore_index=True).sort_values("bag_id", ignore_index=True)
    pooled[PREVALENCE] = float(np.mean([part[PREVALENCE].iloc[0] for part in parts]))
    _check_partition(pooled, first.split)
    return pooled


def mean_of_settings(folds: Sequence[Fold]) -> Fold:
    """One fold of several settings as that of their ensemble: each test bag has the mean of its probabilities.

    The controls of the runs are not its own and are omitted.

    Raises:
        LungtlError: the settings have different cases, or test others.
    """
    first, tables = folds[0], [fold.predictions.set_index("bag_id").sort_index() for fold in folds]
    for fold, table in zip(folds, tables, strict=True):
        if not _bags(fold).equals(_bags(first)) or not table.index.equals(tables[0].index):
            raise LungtlError(
                f"the settings test different cases in fold {first.number}; run all on one dataset and split"
            )
    columns = [name for name in ("probability", WITH_COVARIATES) if all(name in table for table in tables)]
    mean = pd.DataFrame({name: np.mean([table[name] for table in tables], axis=0) for name in columns}, tables[0].index)
    known = first.split.set_index("bag_id").loc[mean.index]
    scores = score(known["label"], mean["probability"], known["patient_id"], resamples=0)
    values = {name: estimate.value for name, estimate in scores.metrics.items()}
    return Fold(first.number, first.split, mean.reset_index(), values, covariates=first.covariates)


def pooled_gain(
    labels: ArrayLike, probabilities: ArrayLike, control: ArrayLike, patient_ids: Iterable[object]
) -> Difference:
    """The model's AUROC minus a control's on pooled predictions, as `compare_aurocs`, but without its p-value."""
    gain = compare_aurocs(labels, probabilities, control, patient_ids)
    return replace(gain, p_value=None, undefined=gain.undefined or NO_TEST)


def shared_calibration(folds: Sequence[Fold]) -> str:
    """The kind of calibration of all folds; "none" where they differ, as when one had too few validation bags."""
    kinds = {fold.calibration for fold in folds}
    return kinds.pop() if len(kinds) == 1 else "none"


def over_folds(folds: Sequence[Fold]) -> dict[str, dict[str, Any]]:
    """Each metric's values by fold, in the folds' order, and the mean and standard deviation of those defined.

    Within a fold, a rank metric such as the AUROC compares the scores of one model only; pooled, it compares scores of
    different models. There is no interval, since the folds share training patients.
    """
    table: dict[str, dict[str, Any]] = {}
    for name in METRICS:
        values = [fold.metrics[name] for fold in folds]
        defined = [value for value in values if value is not None]
        mean, sd = mean_and_sd(defined) if defined else (None, None)
        table[name] = {"values": values, "n": len(defined), "mean": mean, "sd": sd}
    return table


def _bags(fold: Fold) -> pd.DataFrame:
    return fold.split[["bag_id", "patient_id", "label"]].sort_values("bag_id", ignore_index=True)


def _check_partition(pooled: pd.DataFrame, split: pd.DataFrame) -> None:
    fold_counts = pooled.groupby("patient_id")["fold"].nunique()
    twice = sorted({*fold_counts[fold_counts > 1].index, *pooled.loc[pooled["bag_id"].duplicated(), "patient_id"]})
    if twice:
        raise LungtlError(
            f"patient {twice[0]} is tested twice ({len(twice)} such patients); pool folds of one split only"
        )
    never = sorted(set(split["bag_id"]) - set(pooled["bag_id"]))
    if never:
        raise LungtlError(f"case {never[0]} is tested by no fold ({len(never)} such cases); run every fold")
