from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from lungtl.evaluation.bootstrap import patient_bootstrap
from lungtl.evaluation.checks import patient_codes
from lungtl.evaluation.figures import precision_recall, roc
from lungtl.evaluation.figures.curves import GRID
from lungtl.evaluation.metrics import score
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort
from tests.evaluation.figures.drawn import legend, line

DATA = cohort()
CONTROLS = {"prevalence": np.full(60, 0.4), "diameter": DATA.diameter_mm / 100}


def band(axes: Axes) -> NDArray[np.float64]:
    """The lower and the upper edge of the band over GRID, from its polygon."""
    collection = axes.collections[0]
    assert isinstance(collection, PolyCollection)
    corners = np.asarray(collection.get_paths()[0].vertices)
    ends = [corners[np.isclose(corners[:, 0], x)][:, 1] for x in GRID]
    return np.array([[end.min() for end in ends], [end.max() for end in ends]])


def test_the_roc_is_that_of_scikit_learn() -> None:
    tied = DATA.probabilities.round(1)
    axes = roc(DATA.labels, tied, DATA.patient_ids, resamples=0).axes[0]
    fpr, tpr, _ = roc_curve(DATA.labels, tied, drop_intermediate=False)
    np.testing.assert_allclose(line(axes, 0), (fpr, tpr), atol=1e-12)


def test_the_legend_has_the_numbers_of_the_score_table() -> None:
    axes = roc(DATA.labels, DATA.probabilities, DATA.patient_ids, CONTROLS, resamples=200).axes[0]
    auroc = score(DATA.labels, DATA.probabilities, DATA.patient_ids, resamples=200).metrics["auroc"]
    diameter = roc_auc_score(DATA.labels, DATA.diameter_mm)
    assert legend(axes) == [
        f"model, AUC {auroc.value:.2f} [{auroc.low:.2f}, {auroc.high:.2f}]",
        "95 % band, patients resampled",
        f"diameter, AUC {diameter:.2f}",
        "any constant prediction, AUC 0.50",
    ]
    assert axes.get_title() == f"ROC: n = 60, {DATA.labels.sum()} positive, 50 patients"


def test_controls_are_dashed_and_a_constant_one_is_the_reference_line() -> None:
    axes = roc(DATA.labels, DATA.probabilities, DATA.patient_ids, CONTROLS, resamples=0).axes[0]
    assert [line.get_linestyle() for line in axes.lines] == ["-", "--", ":"]
    fpr, tpr, _ = roc_curve(DATA.labels, DATA.diameter_mm, drop_intermediate=False)
    np.testing.assert_allclose(line(axes, 1), (fpr, tpr), atol=1e-12)
    np.testing.assert_array_equal(line(axes, 2), ([0, 1], [0, 1]))


def drawn_weights(resamples: int) -> NDArray[np.float64]:
    """How often each row is drawn in each replicate, [R, N]."""
    codes = patient_codes(DATA.patient_ids, 60)
    return patient_bootstrap(lambda weights: weights.T, codes, resamples=resamples, seed=0).T


def test_the_roc_band_holds_95_percent_of_the_replicates_curves() -> None:
    curves = []
    for weights in drawn_weights(100):
        fpr, tpr, _ = roc_curve(DATA.labels, DATA.probabilities, sample_weight=weights, drop_intermediate=False)
        curves.append(np.interp(GRID, fpr, tpr))
    axes = roc(DATA.labels, DATA.probabilities, DATA.patient_ids, resamples=100).axes[0]
    np.testing.assert_allclose(band(axes), np.percentile(curves, [2.5, 97.5], axis=0), atol=1e-9)


def test_the_precision_band_holds_95_percent_of_the_replicates_curves() -> None:
    curves = []
    for weights in drawn_weights(100):
        precision, recall, _ = precision_recall_curve(DATA.labels, DATA.probabilities, sample_weight=weights)
        # At each recall, the precision of the highest threshold that reaches it (listed last).
        reaching = [np.flatnonzero(recall >= max(x - 1e-9, 1e-9))[-1] for x in GRID]
        curves.append(precision[reaching])
    axes = precision_recall(DATA.labels, DATA.probabilities, DATA.patient_ids, resamples=100).axes[0]
    np.testing.assert_allclose(band(axes), np.percentile(curves, [2.5, 97.5], axis=0), atol=1e-9)


def test_the_area_under_the_drawn_precision_steps_is_the_average_precision() -> None:
    tied = DATA.probabilities.round(1)
    axes = precision_recall(DATA.labels, tied, DATA.patient_ids, CONTROLS, resamples=0).axes[0]
    recall, precision = line(axes, 0)
    assert axes.lines[0].get_drawstyle() == "steps-pre"
    area = (np.diff(recall) * precision[1:]).sum()
    assert area == pytest.approx(average_precision_score(DATA.labels, tied), abs=1e-12)
    known = set(zip(*(values.round(9) for values in precision_recall_curve(DATA.labels, tied)[1::-1]), strict=True))
    assert set(zip(recall[1:].round(9), precision[1:].round(9), strict=True)) <= known


def test_the_reference_of_precision_is_the_prevalence() -> None:
    axes = precision_recall(DATA.labels, DATA.probabilities, DATA.patient_ids, resamples=0).axes[0]
    prevalence = DATA.labels.mean()
    np.testing.assert_allclose(line(axes, 1), ([0, 1], [prevalence, prevalence]))
    assert legend(axes)[1] == f"any constant prediction, AP {prevalence:.2f}"


def marks(figure: Figure) -> tuple[list[tuple[float, float]], list[str]]:
    """The operating points on the curve, and what the legend says of them."""
    drawn = [line for line in figure.axes[0].lines if line.get_linestyle() == "None"]
    points = [(float(np.asarray(m.get_xdata())[0]), float(np.asarray(m.get_ydata())[0])) for m in drawn]
    return points, [text.get_text() for box in figure.legends for text in box.get_texts()]


def test_operating_points_are_where_the_thresholds_put_the_model() -> None:
    # Positive: .9, .6, .2; negative: .7, .4, .3, .1. A threshold includes its own probability.
    labels, p = [1, 1, 1, 0, 0, 0, 0], [0.9, 0.6, 0.2, 0.7, 0.4, 0.3, 0.1]
    thresholds = {"specificity_90": 0.9, "youden": 0.6, "sensitivity_95": None}
    points, entries = marks(roc(labels, p, range(7), thresholds=thresholds, resamples=0))
    np.testing.assert_allclose(points, [(0, 1 / 3), (0.25, 2 / 3)])
    assert entries == [
        "specificity 90, p >= 0.90: sensitivity 0.33, specificity 1.00",
        "youden, p >= 0.60: sensitivity 0.67, specificity 0.75",
    ]
    points, entries = marks(precision_recall(labels, p, range(7), thresholds=thresholds, resamples=0))
    np.testing.assert_allclose(points, [(1 / 3, 1), (2 / 3, 2 / 3)])
    assert entries[1] == "youden, p >= 0.60: recall 0.67, precision 0.67"


def test_a_threshold_that_calls_none_positive_has_no_precision() -> None:
    points, entries = marks(precision_recall([0, 1], [0.1, 0.2], "ab", thresholds={"all": 0.9}, resamples=0))
    assert np.isnan(points[0][1])
    assert entries == ["all, p >= 0.90: none called positive, precision undefined"]


def test_operating_points_lie_on_the_roc() -> None:
    thresholds = {str(p): float(p) for p in DATA.probabilities[:10]}
    figure = roc(DATA.labels, DATA.probabilities, DATA.patient_ids, thresholds=thresholds, resamples=0)
    corners = line(figure.axes[0], 0).T
    for point in marks(figure)[0]:
        assert np.abs(corners - point).sum(axis=1).min() < 1e-9


def test_a_threshold_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"threshold is -0.1"):
        roc([0, 1], [0.2, 0.8], "ab", thresholds={"odd": -0.1}, resamples=0)


@pytest.mark.parametrize("draw", [roc, precision_recall])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_notes_that_the_curve_is_undefined(draw: Callable[..., Figure], label: int) -> None:
    axes = draw([label] * 12, np.linspace(0.1, 0.9, 12), range(12), {"prevalence": np.full(12, 0.5)}).axes[0]
    assert not axes.lines
    assert [text.get_text() for text in axes.texts] == [f"undefined: one class\n({12 * label} of 12 positive)"]


def test_one_patient_has_a_curve_without_a_band() -> None:
    axes = roc([0, 1], [0.2, 0.8], ["a", "a"]).axes[0]
    assert not axes.collections
    assert legend(axes)[0] == "model, AUC 1.00"


def test_a_control_of_another_length_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"shape \(3,\)"):
        roc([0, 1], [0.2, 0.8], ["a", "b"], {"diameter": [0.1, 0.2, 0.3]}, resamples=0)
