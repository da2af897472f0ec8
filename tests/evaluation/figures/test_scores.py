from __future__ import annotations

import numpy as np
import pytest
from matplotlib.axes import Axes

from lungtl.evaluation.figures import score_histogram
from lungtl.settings.errors import LungtlError
from tests.evaluation.cohort import cohort
from tests.evaluation.figures.drawn import line

DATA = cohort()


def heights(axes: Axes) -> list[float]:
    return [patch.get_height() for patch in axes.patches]  # type: ignore[attr-defined]


def test_each_class_is_counted_on_its_own() -> None:
    above, below = score_histogram(DATA.labels, DATA.probabilities).axes
    malignant = DATA.labels == 1
    np.testing.assert_array_equal(heights(above), np.histogram(DATA.probabilities[malignant], 20, (0, 1))[0])
    np.testing.assert_array_equal(heights(below), np.histogram(DATA.probabilities[~malignant], 20, (0, 1))[0])
    assert above.get_ylim() == below.get_ylim()


def test_a_probability_on_an_edge_counts_upwards() -> None:
    above = score_histogram([1, 1, 1, 0], [0.15, 0.3, 1.0, 0.0]).axes[0]
    assert np.flatnonzero(heights(above)).tolist() == [3, 6, 19]


def test_titles_count_the_decisions_at_the_threshold() -> None:
    # Malignant: .2 below, .5 at the threshold and .9 above it; the others: .1 and .3 below, .6 above.
    above, below = score_histogram([1, 1, 1, 0, 0, 0], [0.2, 0.5, 0.9, 0.1, 0.3, 0.6], threshold=0.5).axes
    assert above.get_title(loc="left") == "malignant: 2 of 3 called malignant, sensitivity 0.67"
    assert below.get_title(loc="left") == "not malignant: 2 of 3 called not malignant, specificity 0.67"
    assert line(above, 0)[0].tolist() == [0.5, 0.5]


def test_a_class_without_bags_is_named() -> None:
    assert score_histogram([1, 1], [0.2, 0.5]).axes[1].get_title(loc="left") == "not malignant: none"


def test_a_threshold_outside_the_unit_interval_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"threshold is 1.5"):
        score_histogram([0, 1], [0.1, 0.9], 1.5)
