"""Calibration of probabilities: a map fitted on validation bags, then applied to test bags."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass
from scipy.special import expit, logit

from lungtl.evaluation.checks import check_labels, check_probabilities, one_class
from lungtl.evaluation.estimate import STRICT, Probability

Floats = NDArray[np.float64]

CLIP = 1e-7
"""Distance from 0 and 1 that probabilities keep in a fit; float32 rounds to exactly 1 from 1 - 6e-8 on."""

TEMPERATURES = (0.2, 20.0)
"""Range of the search; a model that needs a lower or higher temperature is not calibrated by one."""

PARAMETERS = {"none": set(), "platt": {"slope", "intercept"}, "temperature": {"temperature"}, "isotonic": set()}
"""The numbers that each kind has."""


@dataclass(frozen=True, config=STRICT)
class Calibration:
    """A non-decreasing map of probabilities."""

    kind: Literal["none", "platt", "temperature", "isotonic"] = "none"  # none leaves probabilities unchanged
    temperature: Annotated[float, Field(gt=0)] | None = None  # divides the log-odds
    inputs: tuple[Probability, ...] = ()  # ascending knots of kind isotonic
    outputs: tuple[Probability, ...] = ()  # the calibrated probability at each knot
    reason: str | None = None  # why the kind is none although a calibration was requested
    slope: Annotated[float, Field(gt=0)] | None = None  # of kind platt, multiplies the log-odds
    intercept: float | None = None  # is added to them

    @model_validator(mode="after")
    def _parameters_fit_kind(self) -> Calibration:
        given = {name for name in ("slope", "intercept", "temperature") if getattr(self, name) is not None}
        if given != PARAMETERS[self.kind]:
            expected = " and ".join(sorted(PARAMETERS[self.kind])) or "no parameter"
            raise ValueError(f"kind {self.kind} has {' and '.join(sorted(given)) or 'none'}; expected {expected}")
        ascending = bool((np.diff(self.inputs) >= 0).all() and (np.diff(self.outputs) >= 0).all())
        if self.kind == "isotonic" and not (ascending and len(self.inputs) == len(self.outputs) > 0):
            counts = f"{len(self.inputs)} inputs and {len(self.outputs)} outputs"
            raise ValueError(f"kind isotonic has {counts}; expected the same number of ascending knots, at least one")
        return self

    def apply(self, probabilities: ArrayLike) -> Floats:
        """Calibrate probabilities.

        Platt and a temperature below 1 keep the order but may create ties next to 1, where float64 runs out of
        digits (at a temperature of 0.2 from 0.9994 on). Isotonic creates ties between neighbours. Either may change
        an AUROC. Probabilities, of the positive class, are float [N] in [0, 1] before and float64 [N] after.
        """
        p = check_probabilities(probabilities, len(np.atleast_1d(probabilities)))
        if self.slope is not None and self.intercept is not None:
            return np.asarray(expit(self.slope * logit(p) + self.intercept), dtype=np.float64)
        if self.temperature is not None:
            return np.asarray(expit(logit(p) / self.temperature), dtype=np.float64)
        if self.kind == "isotonic":
            return np.interp(p, self.inputs, self.outputs)
        return p


def fit_platt(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Fit slope and intercept by maximum likelihood: sigmoid(slope * logit(p) + intercept).

    The intercept undoes the constant that a class-balanced loss adds to all log-odds. Labels are smoothed as in
    Platt (1999): (N+ + 1) / (N+ + 2) for the N+ positives, 1 / (N- + 2) for the N- negatives, so that the slope
    stays finite where a threshold separates the classes. Labels and probabilities are those of the validation bags.

    Returns:
        Kind platt. Kind none, with the reason, where there is one class or the best slope is not positive.
    """
    from scipy.optimize import minimize

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=one_class(y, "validation cases "))
    z = logit(np.clip(p, CLIP, 1 - CLIP))
    if z.min() == z.max():
        return Calibration(reason=f"no slope can be fitted: all {len(y)} validation cases have the same probability")
    positive = int(y.sum())
    targets = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2))
    # Standardised log-odds make the fit equally easy whatever scale the network uses.
    centre, scale = z.mean(), z.std()
    inputs = np.stack([(z - centre) / scale, np.ones_like(z)], axis=1)

    def loss(line: Floats) -> tuple[float, Floats]:
        """The mean log-loss, convex in slope and intercept, and its gradient."""
        scores = inputs @ line
        return float((np.logaddexp(0, scores) - targets * scores).mean()), inputs.T @ (expit(scores) - targets) / len(y)

    def hessian(line: Floats) -> Floats:
        predicted = expit(inputs @ line)
        return np.asarray((inputs * (predicted * (1 - predicted))[:, None]).T @ inputs / len(y), dtype=np.float64)

    best = minimize(loss, np.zeros(2), jac=True, hess=hessian, method="trust-exact", options={"gtol": 1e-10})
    slope = float(best.x[0] / scale)
    if slope <= 0:
        return Calibration(reason=f"validation ranking is no better than chance (Platt slope {slope:.2g})")
    return Calibration("platt", slope=slope, intercept=float(best.x[1]) - slope * float(centre))


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Fit the temperature T by maximum likelihood: sigmoid(logit(p) / T) (Guo et al., ICML 2017).

    Returns:
        Kind temperature. Kind none, with the reason, where there is one class or the best is outside `TEMPERATURES`.
    """
    from scipy.optimize import brentq

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=one_class(y, "validation cases "))
    # Log-odds of the true class; clipped, or a single wrong bag at exactly 0 or 1 would decide the fit.
    margins = (2 * y - 1) * logit(np.clip(p, CLIP, 1 - CLIP))

    def slope(inverse: float) -> float:
        """Derivative of the mean log-loss at 1/T = inverse; the loss is convex in 1/T, so it increases."""
        return -float((margins * expit(-margins * inverse)).mean())

    lowest, highest = TEMPERATURES
    if slope(1 / highest) >= 0:
        return Calibration(
            reason=f"the best temperature is above {highest:g}: validation cases are no more often right than wrong"
        )
    if slope(1 / lowest) <= 0:
        return Calibration(
            reason=f"the best temperature is below {lowest:g}: (nearly) every validation case is classified correctly"
        )
    return Calibration("temperature", temperature=1 / float(brentq(slope, 1 / highest, 1 / lowest)))


def fit_isotonic(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Fit the best non-decreasing map (Zadrozny & Elkan, KDD 2002), linear between its knots and constant outside.

    It overfits small sets: Niculescu-Mizil & Caruana (ICML 2005) found a fitted sigmoid better on fewer than about
    200 to 1000 cases.

    Returns:
        Kind isotonic. Kind none, with the reason, where there is one class.
    """
    from sklearn.isotonic import IsotonicRegression

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=one_class(y, "validation cases "))
    model: Any = IsotonicRegression(y_min=0, y_max=1).fit(p, y)
    inputs, outputs = (tuple(float(v) for v in knots) for knots in (model.X_thresholds_, model.y_thresholds_))
    return Calibration("isotonic", inputs=inputs, outputs=outputs)
