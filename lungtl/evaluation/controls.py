"""Trivial predictors, fitted on the training bags and scored like the model: what a network has to beat.

On LIDC-IDRI a nodule's diameter alone ranks malignancy with an AUROC above .9, so it belongs next to every result.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from pydantic import TypeAdapter, ValidationError
from scipy.special import expit, logit

from lungtl.evaluation.checks import check_labels
from lungtl.evaluation.covariates import DENSITY, DIAMETER, UNPENALISED, Regression, fit_regression, unknown
from lungtl.settings.errors import LungtlError

log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True)
class DiameterControl:
    """Logistic regression on the nodule's diameter: sigmoid(slope * log(1 + mm) + intercept)."""

    slope: float
    intercept: float

    def predict(self, diameter_mm: ArrayLike) -> NDArray[np.float64]:
        """Probability of the positive class, float64 [n], from diameters in mm, [n]; 0 where a bag has no nodule."""
        scores = self.slope * np.log1p(_check_diameters(diameter_mm, "diameters")) + self.intercept
        return np.asarray(expit(scores), dtype=np.float64)


@dataclass(frozen=True)
class Controls:
    """The predictors fitted on the training bags; stored in the bundle."""

    n: int  # training bags
    prevalence: float  # the share of positives among them
    diameter: DiameterControl | None  # None where a diameter is unknown, or all training bags have one class
    size_density: Regression | None = None  # on diameter and density; None likewise

    def predict(self, test: pd.DataFrame) -> dict[str, NDArray[np.float64]]:
        """Predict bags, given diameter_mm and, where known, density: name of a control -> float64 [len(test)].

        "diameter" and "size_density" are omitted where they were not fitted, or a bag's value is unknown, which is
        logged.
        """
        predicted = {"prevalence": np.full(len(test), self.prevalence)}
        if self.diameter is not None and not _diameters_missing(test, "scored"):
            predicted["diameter"] = self.diameter.predict(test["diameter_mm"])
        if self.size_density is not None and not _densities_missing(test, "scored"):
            predicted["size_density"] = self.size_density.predict(test)
        return predicted

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values, which `from_dict` reads."""
        return asdict(self)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Controls:
        """Read what `to_dict` returned; raises LungtlError on anything else."""
        return read_numbers(cls, document, "controls")


def read_numbers(kind: type[T], document: Mapping[str, Any], name: str) -> T:
    """Read a dataclass from a part of a bundle's config.json; raises LungtlError on anything else."""
    try:
        return TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        reason = error.errors()[0]["msg"]
        raise LungtlError(f"the bundle's {name} cannot be read ({reason}); fetch the bundle again") from error


def fit_controls(train: pd.DataFrame) -> Controls:
    """Fit every control that the data allow.

    Given label (0 or 1), diameter_mm and, where the dataset has it, density of each bag; NaN where unknown.
    """
    labels = check_labels(train["label"].to_numpy(), "training labels")
    diameter = size_density = None
    if labels.min() == labels.max():
        log.info("no diameter control: all %d training labels are %s", len(labels), labels[0])
    elif not _diameters_missing(train, "training"):
        diameter = fit_diameter(train["diameter_mm"], labels)
        if not _densities_missing(train, "training"):
            size_density = fit_regression(train, (DIAMETER, DENSITY), UNPENALISED)
    return Controls(len(labels), float(labels.mean()), diameter, size_density)


def fit_diameter(diameter_mm: ArrayLike, labels: ArrayLike) -> DiameterControl:
    """Fit the regression on the diameter, without a penalty.

    It is monotone in the diameter: where larger nodules are more often malignant, its AUROC is that of the diameter
    itself. Where a diameter separates the training classes, the best slope would be infinite; then scikit-learn's
    default penalty keeps it finite, which changes probabilities but no ranking. Diameters are in mm, [T], 0 where a
    bag has no nodule; labels int [T], of both classes.
    """
    y = check_labels(labels, "training labels")
    train = _check_diameters(diameter_mm, "training diameters")
    if train.min() == train.max():
        return DiameterControl(0.0, float(logit(y.mean())))
    positive, negative = train[y == 1], train[y == 0]
    separated = negative.max() <= positive.min() or positive.max() <= negative.min()
    bags = pd.DataFrame({"diameter_mm": train, "label": y})
    fitted = fit_regression(bags, [DIAMETER], strength=1.0 if separated else np.inf)
    return DiameterControl(fitted.slopes[0], fitted.intercept)


def _diameters_missing(bags: pd.DataFrame, which: str) -> bool:
    """Whether a diameter is unknown; logged, as a warning where only some are, since that may be a mistake."""
    count = int(bags["diameter_mm"].isna().sum())
    if count:
        level = logging.WARNING if count < len(bags) else logging.INFO
        log.log(level, "no diameter control: %d of %d %s cases have no diameter", count, len(bags), which)
    return count > 0


def _densities_missing(bags: pd.DataFrame, which: str) -> bool:
    """Whether a density is unknown; a warning where only some are. The diameters are known."""
    count = int(unknown(bags, [DENSITY]).sum())
    if 0 < count < len(bags):
        log.warning("no control of size and density: %d of %d %s cases have no density", count, len(bags), which)
    return count > 0


def _check_diameters(diameter_mm: ArrayLike, name: str) -> NDArray[np.float64]:
    values = np.asarray(diameter_mm, dtype=np.float64)
    wrong = values[~(np.isfinite(values) & (values >= 0))]
    if wrong.size:
        raise LungtlError(
            f"{name} contain {wrong[0]:g} ({wrong.size} of {values.size}); expected mm, 0 without a nodule"
        )
    return values
