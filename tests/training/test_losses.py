from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch.nn import functional as F

from lungtl.models.bag_classifier import BagOutput
from lungtl.training.losses import BagAndSliceLoss, Part, focal_cross_entropy

BAG_LOGITS = torch.tensor([2.0, -1.0])
SLICE_LOGITS = torch.tensor([
    [[0.0, 0.0, 0.0], [1.0, 0.0, 2.0], [9.0, 9.0, 9.0]],
    [[3.0, 1.0, 0.0], [5.0, -5.0, 5.0], [7.0, 7.0, 7.0]],
])  # fmt: skip
SLICE_LABELS = torch.tensor([[0, 2, -1], [1, -1, -1]])
OUTPUT = BagOutput(BAG_LOGITS, torch.zeros(2, 3), SLICE_LOGITS)
LABELS = torch.tensor([1, 0])
ONE = torch.tensor([[0.0, 1.0, 0.0]])


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


def test_parts_have_the_configured_weights() -> None:
    bag, slices = (
        float(weighted([1, 3], [1, 2, 5])(OUTPUT, LABELS, SLICE_LABELS)[f"{part}_loss"]) for part in ("bag", "slice")
    )
    for bag_weight, slice_weight in ((0.0, 1.0), (2.0, 0.25)):
        loss = BagAndSliceLoss(slice_weight, bag_weight=bag_weight)
        loss.bag_weights.copy_(torch.tensor([1.0, 3.0]))
        loss.slice_weights.copy_(torch.tensor([1.0, 2.0, 5.0]))
        found = float(loss(OUTPUT, LABELS, SLICE_LABELS)["loss"])
        assert found == pytest.approx(bag_weight * bag + slice_weight * slices)


def test_unlabelled_slices_and_padding_do_not_count() -> None:
    noisy = SLICE_LOGITS.clone()
    noisy[SLICE_LABELS == -1] = 1e4
    loss = weighted([1, 3], [1, 2, 5])
    expected, found = (
        loss(BagOutput(BAG_LOGITS, torch.zeros(2, 3), logits), LABELS, SLICE_LABELS) for logits in (SLICE_LOGITS, noisy)
    )
    assert found == expected


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_non_finite_logits_of_unlabelled_slices_do_not_spread(value: float) -> None:
    broken = SLICE_LOGITS.clone()
    broken[SLICE_LABELS == -1] = value
    broken.requires_grad_()
    loss = weighted([1, 3], [1, 2, 5])
    found = loss(BagOutput(BAG_LOGITS, torch.zeros(2, 3), broken), LABELS, SLICE_LABELS)
    assert found == loss(OUTPUT, LABELS, SLICE_LABELS)
    (gradient,) = torch.autograd.grad(found["loss"], broken)
    assert gradient.isfinite().all()
    assert gradient[SLICE_LABELS == -1].eq(0).all()


@pytest.mark.parametrize(("slice_weight", "labels"), [(0.5, torch.full((2, 3), -1)), (0.0, SLICE_LABELS)])
def test_without_slice_labels_or_their_weight_the_bags_remain(slice_weight: float, labels: torch.Tensor) -> None:
    losses = weighted([1, 1], [1, 1, 1], slice_weight)(OUTPUT, LABELS, labels)
    assert losses.keys() == {"loss", "bag_loss"}
    assert float(losses["loss"]) == pytest.approx((softplus(-2) + softplus(-1)) / 2, abs=1e-6)


def test_a_bag_without_slice_labels_does_not_affect_others() -> None:
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


def test_the_loss_is_finite_for_classes_missing_in_training() -> None:
    loss = BagAndSliceLoss()
    loss.count(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 2]))
    # of the two classes that are there
    assert loss.slice_weights.tolist() == pytest.approx([4 / (2 * 3), 1, 4 / 2])
    assert math.isfinite(loss(OUTPUT, LABELS, SLICE_LABELS)["loss"])
    nothing = BagAndSliceLoss()
    nothing.count(torch.tensor([0, 1]), torch.tensor([-1, -1]))
    assert nothing.slice_weights.tolist() == [1, 1, 1]


def test_the_loss_is_linear_in_wrong_confident_logits() -> None:
    wrong = BagOutput(torch.tensor([-1e4, 1e4]), torch.zeros(2, 3), SLICE_LOGITS * 1e4)
    losses = weighted([1, 1], [1, 1, 1])(wrong, LABELS, SLICE_LABELS)
    assert float(losses["bag_loss"]) == pytest.approx(1e4)
    assert math.isfinite(losses["loss"])


def test_class_weights_travel_with_the_checkpoint() -> None:
    assert weighted([1, 3], [1, 2, 5]).state_dict().keys() == {"bag_weights", "slice_weights"}


def logits_and_labels(classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return 3 * torch.randn(64, classes, generator=generator), torch.randint(classes, (64,), generator=generator)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 5.0])
def test_the_focal_loss_of_two_classes_is_that_of_torchvision(gamma: float) -> None:
    from torchvision.ops import sigmoid_focal_loss

    logits, labels = logits_and_labels(2)
    z = logits[:, 1].requires_grad_()
    found = focal_cross_entropy(torch.stack([torch.zeros_like(z), z], dim=1), F.one_hot(labels, 2), gamma)
    expected = sigmoid_focal_loss(z, labels.float(), alpha=-1, gamma=gamma)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.sum(), z), torch.autograd.grad(expected.sum(), z))


def test_the_focal_loss_of_three_classes_by_hand() -> None:
    logits = torch.tensor([0.2, 0.5, 0.3]).log()[None]  # a softmax gives these back
    assert float(focal_cross_entropy(logits, ONE, 2.0)) == pytest.approx(0.5**2 * -math.log(0.5))
    smoothed = focal_cross_entropy(logits, ONE, 2.0, smoothing=0.3)
    by_hand = -sum(q * (1 - p) ** 2 * math.log(p) for q, p in zip((0.1, 0.8, 0.1), (0.2, 0.5, 0.3), strict=True))
    assert float(smoothed) == pytest.approx(by_hand)


@pytest.mark.parametrize("classes", [2, 3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_without_gamma_it_is_the_cross_entropy_of_torch(classes: int, smoothing: float) -> None:
    logits, labels = logits_and_labels(classes)
    expected = F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
    torch.testing.assert_close(focal_cross_entropy(logits, F.one_hot(labels, classes), 0.0, smoothing), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
def test_confident_logits_keep_a_finite_gradient(gamma: float) -> None:
    logits = torch.tensor([[200.0, 0.0, -200.0]] * 3, requires_grad=True)
    loss = focal_cross_entropy(logits, torch.eye(3), gamma)
    assert loss.tolist() == pytest.approx([0, 200, 400])
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    assert gradient.isfinite().all()


def test_gamma_and_smoothing_of_bags_and_slices_go_to_their_part() -> None:
    plain = BagAndSliceLoss()(OUTPUT, LABELS, SLICE_LABELS)
    for option, changed, other in (
        ({"bag_gamma": 2.0}, "bag_loss", "slice_loss"),
        ({"bag_smoothing": 0.2}, "bag_loss", "slice_loss"),
        ({"slice_gamma": 2.0}, "slice_loss", "bag_loss"),
        ({"slice_smoothing": 0.2}, "slice_loss", "bag_loss"),
    ):
        losses = BagAndSliceLoss(**option)(OUTPUT, LABELS, SLICE_LABELS)  # type: ignore[arg-type]
        assert losses[other] == plain[other], option
        assert not torch.isclose(losses[changed], plain[changed]), option


def test_class_weights_stand_for_the_alpha_of_the_focal_loss() -> None:
    loss = BagAndSliceLoss(0.0, bag_gamma=2.0)
    loss.bag_weights.copy_(torch.tensor([1.0, 3.0]))
    p = torch.sigmoid(BAG_LOGITS)
    by_hand = (3 * (1 - p[0]) ** 2 * -p[0].log() + p[1] ** 2 * -(1 - p[1]).log()) / 4
    torch.testing.assert_close(loss(OUTPUT, LABELS, SLICE_LABELS)["bag_loss"], by_hand)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3), st.sampled_from([0.0, 2.0]))
def test_ranks_compute_the_loss_and_gradient_of_their_batch(seed: int, first: int, gamma: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(4, 3, generator=generator, requires_grad=True)
    bag_labels = torch.randint(2, (4,), generator=generator)
    slice_labels = torch.randint(-1, 3, (4, 3), generator=generator)
    loss = BagAndSliceLoss(bag_gamma=gamma, attention_weight=0.3)
    loss.bag_weights.copy_(torch.tensor([1.0, 3.0]))
    loss.slice_weights.copy_(torch.tensor([1.0, 2.0, 5.0]))

    def parts(rows: slice) -> dict[str, Part]:
        own = scores[rows]
        output = BagOutput(own.sum(dim=1), own.softmax(dim=1), torch.stack([own, 2 * own, -own], dim=2))
        return loss.parts(output, bag_labels[rows], slice_labels[rows])

    whole = loss.total(parts(slice(0, 4)))
    shards = [parts(slice(0, first)), parts(slice(first, 4))]
    totals = [
        loss.total({
            name: Part(2 * part.numerator, sum((other[name].denominator for other in shards), torch.zeros(())))
            for name, part in shard.items()
        })
        for shard in shards
    ]  # fmt: skip
    for name, value in whole.items():
        torch.testing.assert_close((totals[0][name] + totals[1][name]) / 2, value)
    (expected,) = torch.autograd.grad(whole["loss"], scores, retain_graph=True)
    (found,) = torch.autograd.grad((totals[0]["loss"] + totals[1]["loss"]) / 2, scores)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_votes_are_the_cross_entropy_with_the_share_of_readers() -> None:
    loss = BagAndSliceLoss(0, target="votes")
    loss.count(torch.tensor([0, 0, 0, 1]), torch.tensor([0, 1, 2]))  # votes are never weighted by class
    votes = torch.tensor([0.75, 0.25])
    found = float(loss(OUTPUT, votes, SLICE_LABELS)["loss"])
    assert found == pytest.approx(float(F.binary_cross_entropy_with_logits(BAG_LOGITS, votes)))
    with_unknown = BagOutput(torch.cat([BAG_LOGITS, torch.tensor([7.0])]), torch.zeros(3, 3), SLICE_LOGITS)
    assert float(
        loss.combined(loss.parts(with_unknown, torch.tensor([0.75, 0.25, -1]), SLICE_LABELS))
    ) == pytest.approx(found)
