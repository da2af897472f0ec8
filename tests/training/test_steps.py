"""What a step of the optimiser is made of: accumulated batches, a clipped gradient, learning rates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from lungtl.data.bags import Batch
from lungtl.data.store.reader import Store
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.training.datamodule import BagDataModule
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import sgd, tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import Epochs, config_of, last_state, split_of, train

# bags of one length: the halves of a batch weigh the same
ALIKE = (3,) * 12


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), ALIKE)


def without_chance() -> BagClassifier:
    """A probe without dropout and batch norm: a bag's loss does not hang on its batch."""
    classifier = tiny_classifier()
    classifier.projection.dropout.p = 0
    classifier.projection.standardise = torch.nn.Identity()  # type: ignore[assignment]
    return classifier


def trained(
    store: Store, folder: Path, loss: BagAndSliceLoss, epochs: Epochs | None = None, max_epochs: int = 2, **trainer: Any
) -> dict[str, Tensor]:
    """The weights of that probe."""
    config = config_of(folder, max_epochs=max_epochs, clip_norm=None, **trainer)
    seed_everything(0)
    # SGD without momentum is linear in the gradient
    module = BagModule(without_chance(), Frozen(), loss, sgd(0.1), config.schedule, max_epochs)
    data = BagDataModule(store, split_of(store), config, None, False)
    fit(module, data, config.trainer, folder, epochs or Epochs(), False)
    state: dict[str, Tensor] = last_state(folder)["state_dict"]
    return state


def test_two_accumulated_batches_are_one_of_twice_the_size(store: Store, tmp_path: Path) -> None:
    """Exactly so where both weigh the same: as many bags, none weighted by its class, as many labelled slices."""
    loss = BagAndSliceLoss(class_weights="none")
    whole = trained(store, tmp_path / "8", loss, batch_size=8)
    halves = trained(store, tmp_path / "4", loss, batch_size=4, accumulate=2)
    single = trained(store, tmp_path / "single", loss, batch_size=4)
    key = "classifier.slice_head.weight"
    assert not torch.allclose(single[key], whole[key], atol=1e-3)
    for name, value in whole.items():
        torch.testing.assert_close(halves[name], value, atol=2e-6, rtol=1e-5, msg=name)


def test_the_last_step_of_an_epoch_averages_the_remaining_batches(store: Store, tmp_path: Path) -> None:
    """Three batches, two a step: the second step of the epoch follows the gradient of the third batch as it is."""
    loss, config = BagAndSliceLoss(class_weights="none"), config_of(tmp_path, batch_size=3)
    probe = without_chance()
    probe.backbone.requires_grad_(False)
    stepped = torch.optim.SGD(
        [p for p in probe.parameters() if p.requires_grad],
        lr=0.1 / 2,  # the first epoch is the warm-up
        weight_decay=config.optimizer["weight_decay"],
    )
    batches: list[Batch] = list(BagDataModule(store, split_of(store), config, None, False).train_dataloader())
    assert len(batches) == 3
    told = []
    for step in (batches[:2], batches[2:]):
        stepped.zero_grad()
        for batch in step:
            assert batch.frames is not None
            own = loss(probe(batch.frames), batch.bag_labels, batch.slice_labels)["loss"]
            (own / len(step)).backward()
            told.append((len(batch.bag_ids), own.item()))
        stepped.step()

    epochs = Epochs()
    found = trained(store, tmp_path, loss, epochs, max_epochs=1, batch_size=3, accumulate=2)
    assert {"classifier.slice_head.weight", "classifier.projection.linear.weight"} <= found.keys()
    for name, value in probe.state_dict().items():
        if f"classifier.{name}" in found:  # what is frozen is not
            torch.testing.assert_close(found[f"classifier.{name}"], value, atol=1e-6, rtol=1e-5, msg=name)
    mean = sum(count * value for count, value in told) / sum(count for count, _ in told)
    assert epochs.seen[1]["train/loss"] == pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("clip_norm", [1e-3, None])
def test_the_gradient_of_a_step_is_no_longer_than_it_may_be(
    store: Store, tmp_path: Path, clip_norm: float | None
) -> None:
    norms = []

    def note(stepped: Optimizer, *_: Any) -> None:
        gradients = [p.grad for group in stepped.param_groups for p in group["params"] if p.grad is not None]
        norms.append(float(torch.linalg.vector_norm(torch.stack([g.norm() for g in gradients]))))

    handle = register_optimizer_step_post_hook(note)
    try:
        train(store, tmp_path, Full(), max_epochs=2, clip_norm=clip_norm)
    finally:
        handle.remove()
    assert len(norms) == 6
    if clip_norm is None:
        assert min(norms) > 1e-2
    else:
        assert norms == pytest.approx([clip_norm] * 6, rel=1e-3)  # each was longer
        assert max(norms) <= clip_norm * (1 + 1e-6)
