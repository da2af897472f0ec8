"""Probabilities that mean what they say: a map fitted on validation bags, then applied to test bags."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lungtl.errors import LungtlError
from lungtl.evaluation.checks import check_labels, check_probabilities

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
        temperature: of kind temperature.
        inputs: ascending knots of kind isotonic.
        outputs: the calibrated probability at each knot.
        reason: why the kind is none although a calibration was asked for.
    """

    kind: Literal["none", "temperature", "isotonic"] = "none"
    temperature: float | None = None
    inputs: tuple[float, ...] = ()
    outputs: tuple[float, ...] = ()
    reason: str | None = None

    def __post_init__(self) -> None:
        x, y = np.array(self.inputs, dtype=np.float64), np.array(self.outputs, dtype=np.float64)
        known = {
            "none": self.temperature is None,
            "temperature": self.temperature is not None and 0 < self.temperature < float("inf"),
            "isotonic": self.temperature is None and len(x) == len(y) > 0 and _in_order(x) and _in_order(y),
        }
        if not known.get(self.kind, False):
            raise LungtlError(
                f"kind {self.kind} with temperature {self.temperature} and {len(x)} knots is no calibration; wanted "
                "none, a temperature above 0, or isotonic with ascending knots in [0, 1]"
            )

    def apply(self, probabilities: ArrayLike) -> Floats:
        """Calibrate probabilities.

        A temperature keeps the order, but one below 1 may make ties next to 1, where float64 tells no more apart: 0.2,
        the coldest that is fitted, from 0.9994 on. Isotonic makes ties of neighbours. Either may change an AUROC.

        Args:
            probabilities: float [N] in [0, 1], of the positive class.

        Returns:
            float64 [N] in [0, 1].

        Raises:
            LungtlError: on NaN or a value outside [0, 1].
        """
        from scipy.special import expit, logit

        p = check_probabilities(probabilities, len(np.atleast_1d(probabilities)))
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
