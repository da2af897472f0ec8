"""What is known of a bag beside its images, such as the nodule's diameter: logistic regressions on it.

`covariates=[diameter, density]` adds a second prediction to a run's. Where the network is linear in the features of a
frozen backbone it is a regression on these features and the covariates (`lungtl.training.probe`); otherwise, here, one
on the network's log-odds and the covariates. How it weighs the network is fitted on the validation bags, since on the
training bags the log-odds are those of a network that has learned them by heart: on 708 nodules of LIDC-IDRI-slices (5
folds, the probe at 16 mm as network) the pooled AUROC is .950 if fitted on validation bags, .931 on training bags, .937
for the network alone and .945 for the covariates alone. How the covariates weigh among themselves needs no network and
is fitted on the training bags: .958 instead of .957 with a network at .950.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from lungtl.evaluation.calibration import CLIP
from lungtl.evaluation.checks import check_labels
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.nearest import nearest

log = logging.getLogger(__name__)
DIAMETER, DENSITY, LOGIT, ALONE = "diameter", "density", "logit", "covariates_alone"
COLUMNS = {DIAMETER: "diameter_mm", LOGIT: "probability"}
"""Input of a regression -> column of a table of bags; the others have their column's name."""
NO_COVARIATE = ("bag_id", "patient_id", "bag_label", "split", "n_slices", "height", "width", "row_spacing_mm",
                "column_spacing_mm", "diameter_mm", "voxels", "voxels_sha256", LOGIT, *COLUMNS.values())  # fmt: skip
WITH_COVARIATES = "probability_with_covariates"
"""Column of predictions.csv."""
UNPENALISED = 100.0  # C of standardised inputs: finite where they separate the classes, else as good as no penalty
PENALISED = 1.0  # for the few validation bags

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Regression:
    """A logistic regression: sigmoid(sum of slope * input + intercept)."""

    inputs: tuple[str, ...]  # covariates; `LOGIT`: the log-odds of another prediction
    slopes: tuple[float, ...]
    intercept: float
    n: int  # bags that it was fitted to

    @property
    def covariates(self) -> tuple[str, ...]:
        """Its inputs but for the network's log-odds."""
        return tuple(name for name in self.inputs if name != LOGIT)

    def predict(self, bags: pd.DataFrame) -> Floats:
        """Probabilities of bags with the columns of its inputs: float64 [n], NaN where an input is unknown."""
        scores = input_values(bags, self.inputs) @ np.array(self.slopes) + self.intercept
        return np.asarray(expit(scores), np.float64)


def input_values(bags: pd.DataFrame, inputs: Sequence[str]) -> Floats:
    """Inputs of a regression, float64 [n, k]: log(1 + mm) of the diameter, log-odds of a probability; NaN: unknown."""
    columns = []
    for name in inputs:
        column = COLUMNS.get(name, name)
        x = bags[column].to_numpy(np.float64) if column in bags else np.full(len(bags), np.nan)
        columns.append(np.log1p(x) if name == DIAMETER else logit(np.clip(x, CLIP, 1 - CLIP)) if name == LOGIT else x)
    return np.stack(columns, axis=1) if columns else np.empty((len(bags), 0))


def unknown(bags: pd.DataFrame, inputs: Sequence[str]) -> NDArray[np.bool_]:
    """Which bags lack an input, bool [n]."""
    return np.asarray(~np.isfinite(input_values(bags, inputs)).all(axis=1))


def fit_regression(bags: pd.DataFrame, inputs: Sequence[str], strength: float) -> Regression:
    """Fit a regression to bags of both classes: label (0 or 1) and the columns of the inputs, all of them known.

    `strength` is scikit-learn's C of standardised inputs.
    """
    x, y = input_values(bags, inputs), check_labels(bags["label"].to_numpy())
    centre, scale = x.mean(axis=0), x.std(axis=0)
    scale[scale == 0] = 1
    model: Any = LogisticRegression(C=strength, solver="newton-cholesky", tol=1e-10)
    model.fit((x - centre) / scale, y)
    slopes = model.coef_[0] / scale
    return Regression(
        tuple(inputs), tuple(float(slope) for slope in slopes), float(model.intercept_[0] - slopes @ centre), len(y)
    )


def fit_covariates(training: pd.DataFrame, validation: pd.DataFrame, covariates: Sequence[str]) -> Regression | None:
    """The regression on the network's log-odds and covariates; None for no covariates or one class in validation.

    In two steps, both with label and the covariates' columns: the covariates alone on the training bags, which are
    many; then its log-odds and the network's on the validation bags, which also have probability.
    """
    if not covariates:
        return None
    if validation["label"].nunique() < 2:
        log.warning("no prediction with covariates: all validation cases have one label")
        return None
    alone = fit_regression(training, covariates, UNPENALISED)
    table = validation.assign(**{ALONE: logit(np.clip(alone.predict(validation), CLIP, 1 - CLIP))})
    both = fit_regression(table, (LOGIT, ALONE), PENALISED)
    network, share = both.slopes
    slopes = (network, *(share * slope for slope in alone.slopes))
    return Regression((LOGIT, *covariates), slopes, both.intercept + share * alone.intercept, both.n)


def check_covariates(bags: pd.DataFrame, split: pd.DataFrame, covariates: Sequence[str]) -> None:
    """Check, before anything is trained, that a store knows the covariates of all bags that train or validate.

    Args:
        bags: the store's table.
        split: bag_id, split.
        covariates: of the config.

    Raises:
        UsageError: the store has no such covariate.
        LungtlError: a training or validation bag lacks one.
    """
    numbers = [str(name) for name in bags.select_dtypes("number") if name not in NO_COVARIATE]
    known = [*([DIAMETER] if bags["diameter_mm"].notna().any() else []), *numbers]
    table = bags.merge(split[["bag_id", "split"]], on="bag_id", suffixes=("_of_source", ""))
    fitted = table[table["split"] != "test"]
    for name in covariates:
        if name not in known:
            raise UsageError(f"covariates={name}: this dataset does not have it; {nearest(name, known)}")
        missing = fitted.loc[unknown(fitted, [name]), "bag_id"]
        if len(missing):
            raise LungtlError(
                f"covariates={name}: {len(missing)} of {len(fitted)} training and validation cases have none (first: "
                f"{missing.iloc[0]}); complete the data, or omit this covariate"
            )


def warn_unknown(bags: pd.DataFrame, covariates: Sequence[str]) -> None:
    """Warn of scored bags, with bag_id, that have no prediction since one of the covariates is unknown."""
    missing = bags.loc[unknown(bags, covariates), "bag_id"]
    if len(missing):
        shown = ", ".join([*missing[:3], *(["..."] if len(missing) > 3 else [])])
        log.warning(
            "no prediction with covariates for %d of %d cases, which lack %s: %s",
            len(missing), len(bags), " or ".join(covariates), shown,
        )  # fmt: skip
