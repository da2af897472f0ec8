"""The network of an export computes what a prediction does, whatever its preprocessing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from lungtl.data.windows import SlicePreprocessor
from lungtl.export.network import ExportedNetwork
from lungtl.models.aggregators.attention import Attention
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.inference import predict_and_embed
from lungtl.models.slice_projection import SliceProjection
from tests.models.tiny import LUNG, WIDTH, tiny_backbone

THREE = ((-600.0, 1500.0), (40.0, 400.0), (-160.0, 1800.0))
SCANS = [((1, 40, 36), (0.7, 0.7)), ((2, 33, 50), (0.8, 0.6)), ((9, 70, 64), (0.5, 0.5)), ((5, 32, 32), (1.5, 1.5))]
"""Slices larger and smaller than the network's 32 pixels, and fields of view larger and smaller than they."""


def classifier(seed: int = 0, views: int = 1, windows: Any = LUNG, neighbours: bool = False, crop: int | None = None,
               crop_mm: tuple[float, ...] = ()) -> BagClassifier:  # fmt: skip
    backbone = tiny_backbone(seed)
    image = SlicePreprocessor(windows, neighbours, 32, crop, backbone.mean, backbone.std, crop_mm)
    projection = SliceProjection(backbone.dim * image.scales, WIDTH, 0.1)
    return BagClassifier(image, backbone, projection, Attention(WIDTH, hidden=8), views=views).eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"neighbours": True}, {"crop": 20}, {"crop_mm": (16.0, 24.0)}, {"views": 3, "crop_mm": (30.0,)},
     {"views": 8, "crop": 21}, {"windows": THREE}],
    ids=str,
)  # fmt: skip
def test_it_predicts_what_the_classifier_predicts(options: dict[str, Any]) -> None:
    model = classifier(**options)
    network = ExportedNetwork([model])
    assert network.takes_spacing == ("crop_mm" in options)
    for number, (shape, spacing) in enumerate(SCANS):
        voxels = np.random.default_rng(number).integers(-1300, 400, shape).astype(np.int16)
        expected = predict_and_embed(model, voxels, spacing)[0]
        with torch.no_grad():
            probability, weights = network(torch.from_numpy(voxels), torch.tensor(spacing))
        assert float(probability) == pytest.approx(expected.probability, abs=1e-5)
        np.testing.assert_allclose(weights.numpy(), expected.weights, atol=1e-5)


def test_members_of_an_ensemble_count_once_each_whatever_their_views() -> None:
    members = [classifier(0, views=4), classifier(1)]
    voxels = np.random.default_rng(0).integers(-1300, 400, (4, 36, 36)).astype(np.int16)
    expected = np.mean([predict_and_embed(each, voxels)[0].probability for each in members])
    with torch.no_grad():
        probability, weights = ExportedNetwork(members)(torch.from_numpy(voxels))
    assert float(probability) == pytest.approx(expected, abs=1e-5)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-5)
