from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from lungtl.models.bag_classifier import BagOutput
from lungtl.training.losses import BagAndSliceLoss, scale_for_ddp, sum_parts
from tests.together import together

B, S = 7, 5
RANDOM = torch.Generator().manual_seed(0)
BAG_LOGITS, SLICE_LOGITS = torch.randn(B, generator=RANDOM), torch.randn(B, S, 3, generator=RANDOM)
BAG_LABELS = torch.tensor([0, 0, 1, 0, 1, 0, 0])
SLICE_LABELS = torch.randint(-1, 3, (B, S), generator=RANDOM)
SHARES = [slice(0, 2), slice(2, 7)]  # other counts, other classes


def loss_of(slice_labels: Tensor = SLICE_LABELS) -> BagAndSliceLoss:
    loss = BagAndSliceLoss()
    loss.count(BAG_LABELS, slice_labels)
    return loss


def output_of(part: slice, bag_logits: Tensor = BAG_LOGITS, slice_logits: Tensor = SLICE_LOGITS) -> BagOutput:
    return BagOutput(bag_logits[part], torch.full((B, S), 1 / S)[part], slice_logits[part])


@pytest.mark.parametrize("unlabelled", [slice(0, 0), SHARES[1], slice(0, B)], ids=["none", "of one process", "all"])
def test_the_mean_over_ranks_is_the_loss_and_its_gradient(tmp_path: Path, unlabelled: slice) -> None:
    slice_labels = SLICE_LABELS.clone()
    slice_labels[unlabelled] = -1
    loss = loss_of(slice_labels)

    def share(own: int) -> dict[str, Tensor]:
        bags, slices = BAG_LOGITS.clone().requires_grad_(), SLICE_LOGITS.clone().requires_grad_()
        part = SHARES[own]
        found = loss.total(
            scale_for_ddp(loss.parts(output_of(part, bags, slices), BAG_LABELS[part], slice_labels[part]))
        )
        found["loss"].backward()
        assert bags.grad is not None
        assert slices.grad is not None
        return {**{k: v.detach() for k, v in found.items()}, "bag_grad": bags.grad, "slice_grad": slices.grad}

    shares = together(tmp_path, share)
    bags, slices = BAG_LOGITS.clone().requires_grad_(), SLICE_LOGITS.clone().requires_grad_()
    expected = loss(output_of(slice(0, B), bags, slices), BAG_LABELS, slice_labels)
    expected["loss"].backward()
    whole = {**expected, "bag_grad": bags.grad, "slice_grad": slices.grad}
    assert shares[0].keys() == shares[1].keys() == whole.keys()
    for name, value in whole.items():
        torch.testing.assert_close(torch.stack([own[name] for own in shares]).mean(dim=0), value, atol=1e-6, rtol=1e-6)


def test_scaling_is_a_no_op_in_a_single_process() -> None:
    loss = loss_of()
    parts = loss.parts(output_of(slice(0, B)), BAG_LABELS, SLICE_LABELS)
    assert loss.total(scale_for_ddp(parts)) == loss.total(parts)


def test_the_summed_parts_of_all_ranks_are_those_of_one_batch(tmp_path: Path) -> None:
    loss = loss_of()

    def validated(own: int) -> dict[str, Tensor]:
        bags = range(B)[SHARES[own]]
        batches = [slice(bag, bag + 1) for bag in bags]
        return loss.total(
            sum_parts([loss.parts(output_of(part), BAG_LABELS[part], SLICE_LABELS[part]) for part in batches])
        )

    expected = loss(output_of(slice(0, B)), BAG_LABELS, SLICE_LABELS)
    for found in together(tmp_path, validated):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            torch.testing.assert_close(found[name], value, atol=1e-6, rtol=1e-6)
