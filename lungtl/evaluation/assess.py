"""Everything that metrics.json holds of one set of predictions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.covariates import WITH_COVARIATES
from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.document import Document, WithCovariates, evaluation_document
from lungtl.evaluation.estimate import Difference
from lungtl.evaluation.localisation import localise
from lungtl.evaluation.metrics import at_threshold, score
from lungtl.evaluation.subgroups import score_subgroups
from lungtl.sources.base import MALIGNANT, UNKNOWN


def assess(
    bags: pd.DataFrame,
    slices: pd.DataFrame,
    *,
    split: str,
    controls: Mapping[str, ArrayLike],
    chosen: Chosen | None,
    groups: pd.DataFrame,
    untrained_weights: pd.DataFrame | None = None,
    slices_trained: bool = True,
    chose: bool = False,
    threshold: float = 0.5,
    resamples: int = 1000,
    covariates: Sequence[str] = (),
    **context: Any,
) -> Document:
    """Score predictions next to their controls: the content of metrics.json.

    Args:
        bags: bag_id, patient_id, label (0 or 1), probability; where there are covariates also
            probability_with_covariates, NaN where unknown.
        slices: of these bags: bag_id, index, label (-1 unknown), weight; p_malignant where the slice head was trained.
        split: the name of the split that was scored.
        controls: name -> probabilities [n] of a predictor to beat, in the order of `bags`.
        chosen: calibration and thresholds, fitted on validation bags; None where nothing was chosen.
        groups: one row per bag in the order of `bags`, one column per group (see `lungtl.evaluation.subgroups`).
        untrained_weights: bag_id, index and weights of an untrained aggregator (see `localise`).
        slices_trained: whether the slice head was trained; if not, slices are not scored.
        chose: whether `chosen` was fitted on these very bags; then neither calibration nor thresholds are scored.
        threshold: bags and slices with at least this probability count as positive.
        resamples: of patients, for the bootstrapped intervals.
        covariates: their names; without any, none are scored.
        **context: further keys of the document.
    """
    labels, probabilities, patients = bags["label"], bags["probability"], bags["patient_id"]
    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples}
    labelled = slices[slices["label"] != UNKNOWN].merge(bags[["bag_id", "patient_id"]], on="bag_id")
    applied = None if chose else chosen
    patient_of_bag = dict(zip(bags["bag_id"], patients, strict=True))
    return evaluation_document(
        split=split,
        bag=score(labels, probabilities, patients, **options),
        calibrated={
            kind: score(labels, fitted.apply(probabilities), patients, **options)
            for kind, fitted in (applied.maps if applied is not None else {}).items()
            if fitted.kind != "none"
        },
        with_covariates=None
        if chose or not covariates
        else score_with_covariates(bags, controls, covariates, threshold=threshold, resamples=resamples),
        slice=score(labelled["label"] == MALIGNANT, labelled["p_malignant"], labelled["patient_id"], **options)
        if slices_trained and len(labelled)
        else None,
        controls={name: score(labels, p, patients, **options) for name, p in controls.items()},
        gains={name: compare_aurocs(labels, probabilities, p, patients) for name, p in controls.items()},
        chosen=chosen,
        operating_points={
            name: None if at is None else at_threshold(labels, probabilities, patients, at, resamples=resamples)
            for name, at in (applied.thresholds if applied is not None else {}).items()
        },
        subgroups=score_subgroups(labels, probabilities, patients, groups),
        localisation=localise(slices, patient_of_bag, untrained_weights, resamples=resamples),
        **context,
    )


def score_with_covariates(
    bags: pd.DataFrame,
    controls: Mapping[str, ArrayLike],
    covariates: Sequence[str],
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    compare: Callable[..., Difference] = compare_aurocs,
) -> WithCovariates | None:
    """Score the column probability_with_covariates on the bags that have it; None where there are none.

    `compare` takes labels, two arrays of probabilities and patients; the other arguments are those of `assess`.
    """
    known = bags[WITH_COVARIATES].notna().to_numpy()
    if not known.any():
        return None
    labels, combined, alone, patients = (
        bags.loc[known, name] for name in ("label", WITH_COVARIATES, "probability", "patient_id")
    )
    return WithCovariates(
        covariates=tuple(covariates),
        n_unknown=int((~known).sum()),
        scores=score(labels, combined, patients, threshold=threshold, resamples=resamples),
        gain=compare(labels, combined, alone, patients),
        gains={name: compare(labels, combined, np.asarray(p)[known], patients) for name, p in controls.items()},
    )
