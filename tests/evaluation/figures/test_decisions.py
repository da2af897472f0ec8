from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix

from lungtl.evaluation.figures import confusion, reliability, save
from lungtl.evaluation.metrics import score
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort
from tests.evaluation.figures.drawn import image, line

DATA = cohort()


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_reliability_draws_the_calibration_curve_with_the_counts_below() -> None:
    above, below = reliability(DATA.labels, DATA.probabilities).axes
    observed, predicted = calibration_curve(DATA.labels, DATA.probabilities, n_bins=10, strategy="uniform")
    np.testing.assert_allclose(line(above, 1), [predicted, observed])
    np.testing.assert_allclose(np.asarray(above.collections[0].get_offsets()).T, [predicted, observed])
    counts = np.histogram(DATA.probabilities, bins=10, range=(0, 1))[0]
    np.testing.assert_array_equal([patch.get_height() for patch in below.patches], counts)  # type: ignore[attr-defined]


def stated(name: str, probabilities: NDArray[np.float64]) -> str:
    metrics = score(DATA.labels, probabilities, range(60), resamples=0).metrics
    return f"{name}: ECE {metrics['ece'].value:.3f}, Brier {metrics['brier'].value:.3f}"


def test_reliability_states_the_errors_of_the_score_table() -> None:
    assert legend(reliability(DATA.labels, DATA.probabilities))[1] == stated("model", DATA.probabilities)


def test_reliability_draws_calibrated_probabilities_too() -> None:
    calibrated = DATA.probabilities**2
    figure = reliability(DATA.labels, DATA.probabilities, calibrated)
    above, below = figure.axes
    for index, values in ((1, DATA.probabilities), (2, calibrated)):
        observed, predicted = calibration_curve(DATA.labels, values, n_bins=10, strategy="uniform")
        np.testing.assert_allclose(line(above, index), [predicted, observed])
    assert legend(figure)[1:] == [stated("before", DATA.probabilities), stated("after calibration", calibrated)]
    bars = [(patch.get_x(), patch.get_height()) for patch in below.patches]  # type: ignore[attr-defined]
    before, after = bars[:10], bars[10:]
    np.testing.assert_array_equal([height for _, height in after], np.histogram(calibrated, bins=10, range=(0, 1))[0])
    assert all(left[0] < right[0] for left, right in zip(before, after, strict=True))


def test_the_legend_of_reliability_covers_no_point(tmp_path: Path) -> None:
    labels, p = np.repeat([0, 1], 20), np.r_[np.linspace(0, 0.4, 20), np.linspace(0.05, 1, 20)]
    figure = reliability(labels, p, p**2)
    save(figure, tmp_path / "reliability.png")  # lays it out
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[0].get_window_extent())
    assert not figure.legends[0].get_window_extent().overlaps(figure.axes[1].get_window_extent())


def test_reliability_of_one_class_is_defined() -> None:
    above = reliability([1, 1, 1], [0.15, 0.18, 1.0]).axes[0]
    np.testing.assert_allclose(line(above, 1), [[0.165, 1.0], [1.0, 1.0]])


def test_confusion_has_counts_and_their_share_of_the_true_class() -> None:
    # True 0: 0.1, 0.3 below, 0.5 at the threshold, which is called positive; true 1: 0.2 below, 0.9 above.
    figure = confusion([0, 0, 0, 1, 1], [0.1, 0.3, 0.5, 0.2, 0.9], threshold=0.5)
    axes = figure.axes[0]
    assert [text.get_text() for text in axes.texts] == [
        "2\n67% of row",
        "1\n33% of row",
        "1\n50% of row",
        "1\n50% of row",
    ]
    assert axes.get_title() == "Confusion matrix: called malignant at p >= 0.50 (n = 5)"
    np.testing.assert_allclose(image(axes), [[2 / 3, 1 / 3], [0.5, 0.5]])
    assert [label.get_text() for label in axes.get_yticklabels()] == [
        "not malignant\n(n = 3)",
        "malignant\n(n = 2)",
    ]


def test_confusion_counts_as_scikit_learn_does() -> None:
    axes = confusion(DATA.labels, DATA.probabilities, 0.35).axes[0]
    counts = [int(text.get_text().split("\n")[0]) for text in axes.texts]
    assert counts == confusion_matrix(DATA.labels, DATA.probabilities >= 0.35).ravel().tolist()


def test_confusion_of_one_class_marks_the_empty_row() -> None:
    texts = [text.get_text() for text in confusion([0, 0], [0.1, 0.9]).axes[0].texts]
    assert texts == ["1\n50% of row", "1\n50% of row", "0\nundefined: no rows", "0\nundefined: no rows"]


def test_a_threshold_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"threshold is 1.5"):
        confusion([0, 1], [0.1, 0.9], 1.5)
