from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight

from lungtl.models.bag_classifier import BagOutput
from lungtl.training.losses import BagAndSliceLoss

BAG_LOGITS = torch.tensor([2.0, -1.0])
SLICE_LOGITS = torch.tensor([
    [[0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [9.0, 9.0, 9.0]],
    [[3.0, 1.0, 0.0], [5.0, -5.0, 5.0], [7.0, 7.0, 7.0]],
])  # fmt: skip
SLICE_LABELS = torch.tensor([[0, 2, -1], [1, -1, -1]])
OUTPUT = BagOutput(BAG_LOGITS, torch.zeros(2, 3), SLICE_LOGITS)
LABELS = torch.tensor([1, 0])


def weighted(bag: list[float], slices: list[float], slice_weight: float = 0.5) -> BagAndSliceLoss:
    loss = BagAndSliceLoss(slice_weight)
    loss.bag_weights.copy_(torch.tensor(bag))
    loss.slice_weights.copy_(torch.tensor(slices))
    return loss


def softplus(x: float) -> float:
    return math.log1p(math.exp(x))


def cross_entropy(logits: list[float], label: int) -> float:
    return math.log(sum(math.exp(z) for z in logits)) - logits[label]


def test_hand_computed() -> None:
    losses = weighted([1, 3], [1, 2, 5])(OUTPUT, LABELS, SLICE_LABELS)
    bag = (3 * softplus(-2) + 1 * softplus(-1)) / 4
    slices = (1 * math.log(3) + 5 * cross_entropy([1, 0, 2], 2) + 2 * cross_entropy([3, 1, 0], 1)) / 8
    found = {name: float(value) for name, value in losses.items()}
    assert found == pytest.approx({"bag_loss": bag, "slice_loss": slices, "loss": bag + 0.5 * slices}, abs=1e-6)


def test_slices_of_unknown_label_and_padding_change_nothing() -> None:
    noisy = SLICE_LOGITS.clone()
    noisy[SLICE_LABELS == -1] = 1e4
    loss = weighted([1, 3], [1, 2, 5])
    expected, found = (
        loss(BagOutput(BAG_LOGITS, torch.zeros(2, 3), logits), LABELS, SLICE_LABELS) for logits in (SLICE_LOGITS, noisy)
    )
    assert found == expected


@pytest.mark.parametrize(("slice_weight", "labels"), [(0.5, torch.full((2, 3), -1)), (0.0, SLICE_LABELS)])
def test_without_slice_labels_or_their_weight_the_bags_remain(slice_weight: float, labels: torch.Tensor) -> None:
    losses = weighted([1, 1], [1, 1, 1], slice_weight)(OUTPUT, LABELS, labels)
    assert losses.keys() == {"loss", "bag_loss"}
    assert float(losses["loss"]) == pytest.approx((softplus(-2) + softplus(-1)) / 2, abs=1e-6)


def test_a_bag_without_slice_labels_leaves_the_other_bags_slices_as_they_are() -> None:
    labels = torch.tensor([[-1, -1, -1], [1, -1, -1]])
    losses = weighted([1, 1], [1, 2, 5])(OUTPUT, LABELS, labels)
    assert float(losses["slice_loss"]) == pytest.approx(cross_entropy([3, 1, 0], 1), abs=1e-6)


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    bags, slices = np.repeat([0, 1], [30, 10]), np.repeat([0, 1, 2], [70, 20, 10])
    loss = BagAndSliceLoss()
    loss.count(torch.from_numpy(bags), torch.from_numpy(np.concatenate([slices, np.full(50, -1)])))
    np.testing.assert_allclose(loss.bag_weights, compute_class_weight("balanced", classes=np.arange(2), y=bags))
    np.testing.assert_allclose(
        loss.slice_weights, compute_class_weight("balanced", classes=np.arange(3), y=slices), rtol=1e-6
    )
    assert loss.bag_weights.tolist() == pytest.approx([40 / (2 * 30), 40 / (2 * 10)])


def test_no_class_weights() -> None:
    loss = BagAndSliceLoss(class_weights="none")
    loss.count(torch.tensor([0, 0, 1]), torch.tensor([0, 0, 2]))
    assert loss.bag_weights.tolist() == [1, 1]
    assert loss.slice_weights.tolist() == [1, 1, 1]


def test_a_class_that_training_never_showed_keeps_the_loss_finite() -> None:
    loss = BagAndSliceLoss()
    loss.count(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2]))
    # of the two classes that are there
    assert loss.slice_weights.tolist() == pytest.approx([4 / (2 * 3), 1, 4 / 2])
    assert math.isfinite(loss(OUTPUT, LABELS, SLICE_LABELS)["loss"])
    nothing = BagAndSliceLoss()
    nothing.count(torch.tensor([0, 1]), torch.tensor([-1, -1]))
    assert nothing.slice_weights.tolist() == [1, 1, 1]


def test_confident_logits_stay_finite_and_are_punished_linearly() -> None:
    wrong = BagOutput(torch.tensor([-1e4, 1e4]), torch.zeros(2, 3), SLICE_LOGITS * 1e4)
    losses = weighted([1, 1], [1, 1, 1])(wrong, LABELS, SLICE_LABELS)
    assert float(losses["bag_loss"]) == pytest.approx(1e4)
    assert math.isfinite(losses["loss"])


def test_class_weights_travel_with_the_checkpoint() -> None:
    assert weighted([1, 3], [1, 2, 5]).state_dict().keys() == {"bag_weights", "slice_weights"}
