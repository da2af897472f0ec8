"""The readers' ratings as auxiliary targets."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from lungtl.data.bags import BagDataset, collate
from lungtl.models.freezing.frozen import Frozen
from lungtl.runs.training import build_loss
from lungtl.settings.errors import UsageError
from lungtl.sources.lidc_labels import RATINGS_BESIDE_MALIGNANCY
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from lungtl.training.readers import ReaderHeads, scaled_ratings
from tests.models.tiny import WIDTH, adamw, cosine, tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import config_of, split_of

CALCIFICATION = RATINGS_BESIDE_MALIGNANCY.index("calcification")


def test_ratings_are_scaled_by_their_own_range() -> None:
    assert len(RATINGS_BESIDE_MALIGNANCY) == 8
    bags = pd.DataFrame({"bag_id": ["a", "b"], "rating_calcification": [6.0, 1.0], "rating_internalStructure": [2.5, 4],
                         "rating_texture": [2.0, np.nan], "rating_malignancy": [5.0, 5.0]})  # fmt: skip
    found = scaled_ratings(bags)
    assert found is not None
    by_name = [dict(zip(RATINGS_BESIDE_MALIGNANCY, found[bag_id].tolist(), strict=True)) for bag_id in "ab"]
    assert [one["calcification"] for one in by_name] == [1, 0]
    assert [one["internalStructure"] for one in by_name] == pytest.approx([0.5, 1])
    assert by_name[0]["texture"] == pytest.approx(0.25)
    assert math.isnan(by_name[1]["texture"])
    assert math.isnan(by_name[0]["spiculation"])
    assert scaled_ratings(bags[["bag_id"]]) is None


def test_the_loss_by_hand() -> None:
    heads = ReaderHeads(2, calcification_share=0.3)
    assert heads.weights.sum() == pytest.approx(1)
    with torch.no_grad():
        heads.linear.weight.zero_()
        heads.linear.bias.zero_()
        heads.linear.bias[CALCIFICATION] = math.log(3)  # a prediction of 0.75; of all others 0.5
    ratings = torch.full((2, 8), math.nan)
    ratings[0, CALCIFICATION], ratings[0, 0], ratings[1, 0] = 1, 0.5, 0.2
    numerator, denominator = heads(torch.randn(2, 2), ratings)
    assert float(denominator) == pytest.approx(0.3 + 0.1 + 0.1)
    assert float(numerator.detach()) == pytest.approx(-0.3 * math.log(0.75) + 0.2 * math.log(2), rel=1e-5)
    nothing = heads(torch.randn(2, 2), torch.full((2, 8), math.nan))
    assert [float(value.detach()) for value in nothing] == [0, 0]


@pytest.fixture
def module() -> BagModule:
    loss = BagAndSliceLoss(readers_weight=0.5)
    loss.add_reader_heads(WIDTH)
    return BagModule(tiny_classifier(), Frozen(), loss, adamw(), cosine(), 4)


def test_they_train_the_embedding_and_only_in_training(tmp_path: Path, module: BagModule) -> None:
    store = toy_store(tmp_path, [3, 2])
    ratings = {bag_id: torch.rand(8) for bag_id in ("b00", "b01")}
    bags = BagDataset(store, ["b00", "b01"], {"b00": 0, "b01": 1}, ratings=ratings)
    batch = collate([bags[0], bags[1]])
    assert batch.ratings is not None
    assert torch.equal(batch.ratings[1], ratings["b01"])
    output = module(batch)
    expected = (output.weights[..., None] * torch.ones(WIDTH)).sum(dim=1)
    assert output.embedding.shape == expected.shape
    parts = module.loss.parts(output, batch.bag_labels, batch.slice_labels, batch.ratings)
    assert "readers_loss" not in module.loss.parts(output, batch.bag_labels, batch.slice_labels)
    without = module.loss.combined({name: part for name, part in parts.items() if name != "readers_loss"})
    readers = parts["readers_loss"]
    mean = float((readers.numerator / readers.denominator).detach())
    assert module.loss.combined(parts).item() == pytest.approx(without.item() + 0.5 * mean, rel=1e-5)
    readers.numerator.backward()
    assert module.classifier.projection.linear is not None
    assert module.classifier.projection.linear.weight.grad is not None
    trained = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert {id(p) for p in module.loss.parameters()} <= trained
    assert len(list(module.loss.parameters())) == 2


def test_the_embedding_is_the_weighted_mean_of_the_projections(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [4])
    classifier = tiny_classifier()
    frames = BagDataset(store, ["b00"], {})[0].frames
    assert frames is not None
    with torch.no_grad():
        output = classifier([frames])
        projected = classifier.projection(classifier.embed(frames))
    torch.testing.assert_close(output.embedding[0], output.weights[0] @ projected, atol=1e-5, rtol=0)


def test_a_dataset_without_ratings_is_refused(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [2] * 12)
    config = config_of(tmp_path)
    assert build_loss(config, store, split_of(store), 8).reader_heads is None
    asked = config.model_copy(update={"loss": {**config.loss, "readers_weight": 0.5}})
    with pytest.raises(UsageError, match=r"loss.readers_weight=0.5: toy-.* has no readers' ratings"):
        build_loss(asked, store, split_of(store), 8)
