"""All that is said of one set of predictions, put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.document import Document, evaluation_document
from lungtl.evaluation.localisation import localise
from lungtl.evaluation.metrics import score
from lungtl.evaluation.operating_points import at_threshold
from lungtl.evaluation.subgroups import score_subgroups
from lungtl.sources.base import MALIGNANT, UNKNOWN

if TYPE_CHECKING:
    import pandas as pd


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
    **context: Any,
) -> Document:
    """Score predictions beside their controls, by what the validation bags chose.

    Args:
        bags: bag_id, patient_id, label (0 or 1), probability.
        slices: of these bags: bag_id, index, label (-1 unknown), weight; p_malignant where the slice head was trained.
        split: the name under which the scores stand.
        controls: name -> probabilities [n] of a predictor to beat, in the order of `bags`.
        chosen: calibration and thresholds, fitted on validation bags; None where nothing was chosen.
        groups: a row a bag in the order of `bags`, a column a group (see `lungtl.evaluation.subgroups`).
        untrained_weights: bag_id, index and weights of an untrained aggregator (see `localise`).
        slices_trained: whether the slice head was trained; if not, slices are not scored.
        chose: whether these are the validation bags themselves; if so, neither calibration nor thresholds are scored.
        threshold: probability from which a bag, or a slice, counts as positive.
        resamples: of patients, for the bootstrapped intervals.
        **context: further keys of the document.

    Returns:
        The document that metrics.json holds.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    labels, probabilities, patients = bags["label"], bags["probability"], bags["patient_id"]
    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples}
    known = slices[slices["label"] != UNKNOWN].merge(bags[["bag_id", "patient_id"]], on="bag_id")
    judged = None if chose else chosen
    maps = judged.maps if judged is not None else {}
    thresholds = judged.thresholds if judged is not None else {}
    found = localise(
        slices, dict(zip(bags["bag_id"], patients, strict=True)), untrained_weights, resamples=resamples
    )  # fmt: skip
    return evaluation_document(
        split=split,
        bag=score(labels, probabilities, patients, **options),
        calibrated={
            kind: score(labels, fitted.apply(probabilities), patients, **options)
            for kind, fitted in maps.items()
            if fitted.kind != "none"
        },
        slices=score(known["label"] == MALIGNANT, known["p_malignant"], known["patient_id"], **options)
        if slices_trained and len(known)
        else None,
        controls={name: score(labels, p, patients, **options) for name, p in controls.items()},
        gains={name: asdict(compare_aurocs(labels, probabilities, p, patients)) for name, p in controls.items()},
        chosen=chosen.to_dict() if chosen is not None else None,
        operating_points={
            name: None if at is None else at_threshold(labels, probabilities, patients, at, resamples=resamples)
            for name, at in thresholds.items()
        },
        subgroups=score_subgroups(labels, probabilities, patients, groups),
        localisation=found.to_dict() if found is not None else None,
        **context,
    )
