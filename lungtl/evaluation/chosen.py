"""What is chosen once on the validation bags and applied unchanged to all others: calibration and thresholds."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from lungtl.evaluation.calibration import Calibration, fit_isotonic, fit_platt, fit_temperature
from lungtl.evaluation.checks import check_labels, check_probabilities
from lungtl.evaluation.estimate import STRICT
from lungtl.settings.errors import LungtlError

FILE = "calibration.json"
"""In a run's folder and in its bundle."""

NAMES = ("specificity_90", "specificity_95", "sensitivity_90", "sensitivity_95", "youden")
"""The operating points."""

Kind = Literal["platt", "temperature", "isotonic", "none"]

NOT_FITTED = Calibration(reason="not fitted by the version of lungtl that trained the model")
"""Platt scaling of files of version 0.1.0, which have none."""


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Chosen:
    """Calibration maps and thresholds, fitted on validation bags alone: the content of calibration.json."""

    kind: Kind  # the calibration applied to predictions
    n: int  # validation bags
    n_patients: int
    n_positive: int
    # of kind none, with the reason, where they could not be fitted
    platt: Calibration = NOT_FITTED
    temperature: Calibration
    isotonic: Calibration
    # operating point -> bags with at least this (uncalibrated) probability are positive; None where no threshold
    # achieves it
    thresholds: dict[str, float | None]

    @property
    def maps(self) -> dict[str, Calibration]:
        """Kind -> its map."""
        return {"platt": self.platt, "temperature": self.temperature, "isotonic": self.isotonic}

    @property
    def calibration(self) -> Calibration:
        """The map of `kind`."""
        return self.maps.get(self.kind, Calibration())

    def calibrated(self, probabilities: ArrayLike) -> NDArray[np.float64] | None:
        """Calibrated probabilities, float64 [N]; None where no map applies."""
        return None if self.calibration.kind == "none" else self.calibration.apply(probabilities)


def choose(validation: pd.DataFrame, kind: Kind) -> Chosen:
    """Fit every calibration and choose the thresholds on validation bags: patient_id, label (0 or 1), probability."""
    labels, probabilities = validation["label"], validation["probability"]
    return Chosen(
        kind=kind,
        n=len(validation),
        n_patients=int(validation["patient_id"].nunique()),
        n_positive=int(labels.sum()),
        platt=fit_platt(labels, probabilities),
        temperature=fit_temperature(labels, probabilities),
        isotonic=fit_isotonic(labels, probabilities),
        thresholds=choose_thresholds(labels, probabilities),
    )


def choose_thresholds(labels: ArrayLike, probabilities: ArrayLike) -> dict[str, float | None]:
    """Choose thresholds on VALIDATION bags; measure what they achieve on other bags (`at_threshold`).

    A bag is called positive when its probability is at least the threshold. A threshold is halfway between two
    neighbouring probabilities: ties are never separated, and rounding, which differs between devices, flips no bag.

    Returns:
        "specificity_90" and "specificity_95": the highest sensitivity with at least that specificity;
        "sensitivity_90" and "sensitivity_95": the highest specificity with at least that sensitivity; "youden":
        the highest sensitivity + specificity (Youden 1950), of equal ones that with the highest sensitivity. None
        where only calling every bag alike achieves that, or there is one class.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return dict.fromkeys(NAMES)
    candidates = np.unique(p)
    positives, negatives = np.sort(p[y == 1]), np.sort(p[y == 0])
    n_positive, n_negative = len(positives), len(negatives)
    # Whole counts, so that nine of ten are 90 % and equal sums are equal.
    true_positives = n_positive - np.searchsorted(positives, candidates)
    true_negatives = np.searchsorted(negatives, candidates)

    def best(reached: NDArray[np.bool_], gain: NDArray[np.int64], tie_break: NDArray[np.int64]) -> float | None:
        """The threshold with the highest gain above 0, of equal ones that with the highest `tie_break`."""
        place = np.lexsort((tie_break, np.where(reached, gain, 0)))[-1]
        if not reached[place] or gain[place] == 0:
            return None
        # Never the lowest candidate: it calls every bag positive, which gains nothing.
        lower, upper = float(candidates[place - 1]), float(candidates[place])
        middle = (lower + upper) / 2
        return middle if middle > lower else upper

    thresholds: dict[str, float | None] = {}
    for percent in (90, 95):
        enough = 100 * true_negatives >= percent * n_negative
        thresholds[f"specificity_{percent}"] = best(enough, true_positives, true_negatives)
    for percent in (90, 95):
        enough = 100 * true_positives >= percent * n_positive
        thresholds[f"sensitivity_{percent}"] = best(enough, true_negatives, true_positives)
    # (sensitivity + specificity - 1) times the number of pairs
    gain = true_positives * n_negative + true_negatives * n_positive - n_positive * n_negative
    thresholds["youden"] = best(np.ones(len(gain), dtype=bool), gain, true_positives)
    return thresholds


def write_chosen(chosen: Chosen, folder: Path) -> None:
    """Write `calibration.json` into a folder."""
    (folder / FILE).write_text(json.dumps(asdict(chosen), indent=2, allow_nan=False), encoding="utf-8")


def read_chosen(folder: Path) -> Chosen | None:
    """Read what `write_chosen` wrote; None where the folder has none, as bundles of version 0.1.0."""
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Chosen).validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LungtlError(f"{path} is damaged ({where}: {first['msg']}); fetch the bundle again") from error
