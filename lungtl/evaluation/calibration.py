"""Probabilities that mean what they say: a map fitted on validation bags, then applied to test bags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.evaluation.checks import check_labels, check_probabilities
from lungtl.settings.errors import LungtlError

Floats = NDArray[np.float64]

CLIP = 1e-7
"""What a probability of 0 or 1 counts as in a fit; float32 gives exactly 1 from 1 - 6e-8 on."""

TEMPERATURES = (0.2, 20.0)
"""Where the temperature is searched; what needs a colder or hotter one is not calibrated by it."""


@dataclass(frozen=True)
class Calibration:
    """A non-decreasing map of probabilities.

    Attributes:
        kind: none leaves probabilities as they are.
        slope: of kind platt, what the log-odds are multiplied by; above 0.
        intercept: of kind platt, what is added then.
        temperature: of kind temperature.
        inputs: ascending knots of kind isotonic.
        outputs: the calibrated probability at each knot.
        reason: why the kind is none although a calibration was asked for.
    """

    kind: Literal["none", "platt", "temperature", "isotonic"] = "none"
    temperature: float | None = None
    inputs: tuple[float, ...] = ()
    outputs: tuple[float, ...] = ()
    reason: str | None = None
    slope: float | None = None
    intercept: float | None = None

    def __post_init__(self) -> None:
        x, y = np.array(self.inputs, dtype=np.float64), np.array(self.outputs, dtype=np.float64)
        numbers = {"slope": self.slope, "intercept": self.intercept, "temperature": self.temperature}
        wanted = {"none": set(), "platt": {"slope", "intercept"}, "temperature": {"temperature"}, "isotonic": set()}
        given = {name: value for name, value in numbers.items() if value is not None}
        finite = bool(np.isfinite(list(given.values())).all())
        positive = all(given.get(name, 1) > 0 for name in ("slope", "temperature"))
        knots = len(x) == len(y) > 0 and _in_order(x) and _in_order(y)
        wrong = given.keys() != wanted.get(self.kind) or not finite or not positive
        if wrong or (self.kind == "isotonic" and not knots):
            raise LungtlError(
                f"kind {self.kind} with slope {self.slope}, intercept {self.intercept}, temperature {self.temperature} "
                f"and {len(x)} knots is no calibration; wanted none, platt with a slope above 0 and an intercept, a "
                "temperature above 0, or isotonic with ascending knots in [0, 1]"
            )

    def apply(self, probabilities: ArrayLike) -> Floats:
        """Calibrate probabilities.

        A temperature keeps the order, but one below 1 may make ties next to 1, where float64 tells no more apart: 0.2,
        the coldest that is fitted, from 0.9994 on; so may platt. Isotonic makes ties of neighbours. Each may change an
        AUROC.

        Args:
            probabilities: float [N] in [0, 1], of the positive class.

        Returns:
            float64 [N] in [0, 1].

        Raises:
            LungtlError: on NaN or a value outside [0, 1].
        """
        from scipy.special import expit, logit

        p = check_probabilities(probabilities, len(np.atleast_1d(probabilities)))
        if self.slope is not None and self.intercept is not None:
            return np.asarray(expit(self.slope * logit(p) + self.intercept), dtype=np.float64)
        if self.temperature is not None:
            return np.asarray(expit(logit(p) / self.temperature), dtype=np.float64)
        if self.kind == "isotonic":
            return np.interp(p, self.inputs, self.outputs)
        return p

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values, which `from_dict` takes."""
        return asdict(self) | {"inputs": list(self.inputs), "outputs": list(self.outputs)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Calibration:
        """Read what `to_dict` gave, or its JSON.

        Raises:
            LungtlError: when it is no calibration.
        """
        try:
            values = dict(document) | {key: tuple(map(float, document[key])) for key in ("inputs", "outputs")}
            return cls(**values)
        except (KeyError, TypeError, ValueError) as error:
            raise LungtlError(f"no calibration can be read ({error!r}); write it with Calibration.to_dict") from error


def fit_platt(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Find the slope and the intercept that make the labels likeliest: sigmoid(slope * logit(p) + intercept).

    The intercept undoes what a loss that balances classes does, which adds a constant to all log-odds. Labels are
    smoothed as in Platt (1999): (N+ + 1) / (N+ + 2) for the N+ positives, 1 / (N- + 2) for the N- others; so that
    bags that a threshold separates have a best slope, too.

    Args:
        labels: int [N], 0 or 1, of the validation bags.
        probabilities: float [N] in [0, 1], of the positive class.

    Returns:
        Kind platt. Kind none, with the reason, where there is one class or the best slope is not above 0: the bags
        rank no better than chance.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    from scipy.optimize import minimize
    from scipy.special import expit, logit

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=_one_class(y))
    z = logit(np.clip(p, CLIP, 1 - CLIP))
    if z.min() == z.max():
        return Calibration(reason=f"no slope is best: all {len(y)} validation bags have one probability")
    positive = int(y.sum())
    targets = np.where(y == 1, (positive + 1) / (positive + 2), 1 / (len(y) - positive + 2))
    # Of log-odds with mean 0 and deviation 1 the minimum is as easy to find, however the network scales its own.
    centre, spread = z.mean(), z.std()
    inputs = np.stack([(z - centre) / spread, np.ones_like(z)], axis=1)

    def loss(line: Floats) -> tuple[float, Floats]:
        """The mean log-loss, which is convex in slope and intercept, and its gradient."""
        scores = inputs @ line
        return float((np.logaddexp(0, scores) - targets * scores).mean()), inputs.T @ (expit(scores) - targets) / len(y)

    def curvature(line: Floats) -> Floats:
        said = expit(inputs @ line)
        return np.asarray((inputs * (said * (1 - said))[:, None]).T @ inputs / len(y), dtype=np.float64)

    best = minimize(loss, np.zeros(2), jac=True, hess=curvature, method="trust-exact", options={"gtol": 1e-10})
    slope = float(best.x[0] / spread)
    if slope <= 0:
        return Calibration(reason=f"the best slope is {slope:.2g}: the bags rank no better than chance")
    return Calibration("platt", slope=slope, intercept=float(best.x[1]) - slope * float(centre))


def fit_temperature(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Find the temperature T that makes the labels likeliest: sigmoid(logit(p) / T) (Guo et al., ICML 2017).

    Args:
        labels: int [N], 0 or 1, of the validation bags.
        probabilities: float [N] in [0, 1], of the positive class.

    Returns:
        Kind temperature. Kind none, with the reason, where there is one class or the best temperature lies outside
        `TEMPERATURES`: every bag is on its side of 0.5, so the colder the better, or the bags are no more right than
        wrong, so the hotter the better.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    from scipy.optimize import brentq
    from scipy.special import expit, logit

    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=_one_class(y))
    # The log-odds of the true class; a probability of exactly 0 or 1 would make one wrong bag decide everything.
    margins = (2 * y - 1) * logit(np.clip(p, CLIP, 1 - CLIP))

    def slope(coldness: float) -> float:
        """Of the mean log-loss, which is convex in 1/T, at 1/T = coldness; rises with it."""
        return -float((margins * expit(-margins * coldness)).mean())

    coldest, hottest = TEMPERATURES
    if slope(1 / hottest) >= 0:
        return Calibration(reason=f"no temperature up to {hottest:g} is best: the bags are no more right than wrong")
    if slope(1 / coldest) <= 0:
        return Calibration(
            reason=f"no temperature from {coldest:g} is best: every bag is on its side of 0.5, or nearly"
        )
    return Calibration("temperature", temperature=1 / float(brentq(slope, 1 / hottest, 1 / coldest)))


def fit_isotonic(labels: ArrayLike, probabilities: ArrayLike) -> Calibration:
    """Find the non-decreasing map that fits the labels best (Zadrozny & Elkan, KDD 2002).

    Between knots it is linear; below the first and above the last it is constant. With few bags it overfits:
    Niculescu-Mizil & Caruana (ICML 2005) found a fitted sigmoid better on fewer than about 200 to 1000 cases.

    Args:
        labels: int [N], 0 or 1, of the validation bags.
        probabilities: float [N] in [0, 1], of the positive class.

    Returns:
        Kind isotonic; kind none, with the reason, where there is one class.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    y = check_labels(labels)
    p = check_probabilities(probabilities, len(y))
    if y.min() == y.max():
        return Calibration(reason=_one_class(y))
    from sklearn.isotonic import IsotonicRegression

    model: Any = IsotonicRegression(y_min=0, y_max=1).fit(p, y)
    x, y_fitted = (tuple(float(v) for v in knots) for knots in (model.X_thresholds_, model.y_thresholds_))
    return Calibration("isotonic", inputs=x, outputs=y_fitted)


def _in_order(knots: Floats) -> bool:
    return bool(knots[0] >= 0 and knots[-1] <= 1 and (np.diff(knots) >= 0).all())


def _one_class(y: NDArray[np.int64]) -> str:
    return f"only one class: {int(y.sum())} of {len(y)} validation bags positive"
