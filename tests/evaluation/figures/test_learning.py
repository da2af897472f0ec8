from __future__ import annotations

import numpy as np
import pandas as pd

from lungtl.evaluation.figures import learning_curves


def test_curves_best_epoch_and_unfreezing_are_drawn() -> None:
    epochs = pd.DataFrame({"epoch": [1, 2, 3], "train/loss": [3.0, 2.0, 1.0], "val/loss": [3.0, 2.5, 2.6],
                           "val/auroc": [0.5, None, 0.7], "lr": [1e-3, 1e-3, 1e-4]})  # fmt: skip
    figure = learning_curves(epochs, 2, {1: ["stem"], 3: ["layer4", "layer3"], 9: ["layer1"]})
    loss, auroc, rate = figure.axes
    assert [np.asarray(line.get_ydata()).tolist() for line in loss.lines[:2]] == [[3.0, 2.0, 1.0], [3.0, 2.5, 2.6]]
    assert [np.asarray(line.get_xdata()).tolist() for line in loss.lines[2:]] == [[2, 2], [3, 3]]
    assert [text.get_text() for text in loss.texts] == ["layer4 and 1 more"]
    assert np.asarray(auroc.lines[0].get_ydata())[2] == 0.7
    assert np.asarray(rate.lines[0].get_ydata()).tolist() == [1e-3, 1e-3, 1e-4]


def test_a_metric_that_is_not_there_is_not_drawn() -> None:
    figure = learning_curves(pd.DataFrame({"epoch": [1], "val/loss": [1.0]}), 1, {})
    assert len(figure.axes[0].lines) == 2  # and the best epoch
