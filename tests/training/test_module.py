from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lungtl.data.bags import BagDataset, Batch, collate
from lungtl.models.aggregators.mean import Mean
from lungtl.models.bag_classifier import BagOutput
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.settings.errors import UsageError
from lungtl.training.feature_cache import cached_features
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import WIDTH, adamw, cosine, noise_batch, tiny_classifier
from tests.stores import toy_store


def module_of(**options: Any) -> BagModule:
    arguments: dict[str, Any] = {"optimizer": adamw(), "schedule": cosine(), "max_epochs": 4}
    return BagModule(tiny_classifier(), Full(), BagAndSliceLoss(), **{**arguments, **options})


def validated(logits: list[list[float]], labels: list[list[int]]) -> float:
    """The AUROC that an epoch over these validation batches logs."""
    module = module_of()
    logged: dict[str, Any] = {}
    with mock.patch.object(module, "log", lambda name, value, **_: logged.update({name: value})):
        for batch_logits, batch_labels in zip(logits, labels, strict=True):
            n = len(batch_labels)
            output = BagOutput(torch.tensor(batch_logits), torch.ones(n, 1), torch.zeros(n, 1, 3))
            labels_of_slices = torch.zeros(n, 1, dtype=torch.long)
            batch = Batch([""] * n, torch.tensor(batch_labels), labels_of_slices, None, [], [], [])
            with mock.patch.object(module, "forward", return_value=output):
                module.validation_step(batch, 0)
        module.on_validation_epoch_end()
    return float(logged["val/auroc"])


def test_the_auroc_of_validation_is_that_of_scikit_learn() -> None:
    random = torch.Generator().manual_seed(0)
    logits = (torch.randn(60, generator=random) * 3).round() / 2  # with ties
    labels = (torch.rand(60, generator=random) < 0.3).long()
    batches = [part.tolist() for part in logits.split(7)], [part.tolist() for part in labels.split(7)]
    assert validated(*batches) == pytest.approx(roc_auc_score(labels, logits), abs=1e-6)


def test_confident_logits_are_still_ranked() -> None:
    # float32 probabilities of all of these are exactly 1
    assert validated([[20.0, 22.0], [24.0, 26.0]], [[0, 0], [1, 1]]) == 1
    assert validated([[20.0, 22.0], [24.0, 26.0]], [[1, 1], [0, 0]]) == 0


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_cannot_be_ranked(label: int) -> None:
    assert validated([[1.0, 2.0]], [[label, label]]) == 0.5


def test_the_auroc_of_non_finite_logits_is_nan() -> None:
    assert math.isnan(validated([[1.0, math.nan]], [[0, 1]]))


def test_an_epoch_starts_afresh() -> None:
    module = module_of()
    with mock.patch.object(module, "log"):
        module.eval()
        with torch.no_grad():
            module.validation_step(noise_batch(), 0)
        module.on_validation_epoch_end()
    assert module._validation == []


def test_each_bag_is_classified_in_its_view() -> None:
    module = module_of().eval()
    batch = noise_batch((3, 2))
    assert batch.frames is not None
    with torch.no_grad():
        batch.views = [0, 5]
        turned = module(batch)
        frames = [batch.frames[0], torch.rot90(batch.frames[1], 1, (-2, -1)).flip(-1)]
        expected = module.classifier(frames)
        plain = module.classifier(batch.frames)
    assert torch.equal(turned.bag_logits, expected.bag_logits)
    assert not torch.allclose(turned.slice_logits[1], plain.slice_logits[1], atol=1e-4)


def test_cached_features_give_the_output_of_their_voxels() -> None:
    module = module_of().eval()
    batch = noise_batch((3, 2))
    assert batch.frames is not None
    with torch.no_grad():
        from_voxels = module(batch)
        features = [module.classifier.embed(frames) for frames in batch.frames]
        from_cache = module(dataclasses.replace(batch, features=features, frames=None))
    for a, b in zip(from_voxels, from_cache, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


class Recording(Mean):
    """Notes which slices it is told that it sees."""

    seen: list[list[int]]

    def forward(
        self, embeddings: Tensor, slice_logits: Tensor, mask: Tensor, positions: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        assert positions is not None
        self.seen = [row[real].tolist() for row, real in zip(positions, mask, strict=True)]
        return super().forward(embeddings, slice_logits, mask, positions)


@pytest.mark.parametrize("cached", [False, True], ids=["frames", "features"])
def test_the_aggregator_receives_the_positions_of_sampled_slices(tmp_path: Path, cached: bool) -> None:
    store, aggregator = toy_store(tmp_path, (9, 2, 7)), Recording(WIDTH)
    classifier = tiny_classifier(aggregator=aggregator)
    features = cached_features(classifier, store, tmp_path, torch.device("cpu"), "w") if cached else None
    dataset = BagDataset(store, ["b00", "b01", "b02"], {}, features, draw=3)
    batch = collate([dataset[i] for i in range(3)])
    module = BagModule(classifier, Frozen(), BagAndSliceLoss(), adamw(), cosine(), 1).eval()
    with torch.no_grad():
        module(batch)
    drawn = [positions.tolist() for positions in batch.positions]
    assert aggregator.seen == drawn
    assert [len(own) for own in drawn] == [3, 2, 3]
    assert drawn[0] != [0, 1, 2]
    assert drawn[2] != [0, 1, 2]


class Generator:
    """Stands in for `torch.cuda`."""

    def __init__(self) -> None:
        self.states = {"cuda:1": torch.tensor([1, 2], dtype=torch.uint8)}

    def get_rng_state(self, device: torch.device) -> Tensor:
        return self.states[str(device)]

    def set_rng_state(self, state: Tensor, device: torch.device) -> None:
        self.states[str(device)] = state


def trains_on(device: str) -> BagModule:
    module = module_of()
    module._trainer = SimpleNamespace(  # type: ignore[assignment]
        strategy=SimpleNamespace(root_device=torch.device(device))
    )
    return module


def test_a_checkpoint_keeps_the_random_state_of_the_device_that_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = Generator()
    monkeypatch.setattr(torch, "get_device_module", lambda device: cuda)
    on_cpu: dict[str, Any] = {}
    on_gpu: dict[str, Any] = {}
    torch.manual_seed(5)
    trains_on("cpu").on_save_checkpoint(on_cpu)
    trains_on("cuda:1").on_save_checkpoint(on_gpu)
    drawn = torch.rand(3)
    assert [state.keys() for state in on_cpu["random_state"]] == [{"cpu"}]
    assert [state.keys() for state in on_gpu["random_state"]] == [{"cpu", "cuda"}]
    cuda.states = {}
    trains_on("cuda:1").on_load_checkpoint(on_cpu)  # goes on elsewhere
    assert torch.equal(torch.rand(3), drawn)
    assert cuda.states == {}
    trains_on("cuda:1").on_load_checkpoint(on_gpu)
    assert torch.equal(torch.rand(3), drawn)
    assert cuda.states["cuda:1"].tolist() == [1, 2]


def test_training_on_slices_only_requires_an_aggregator_without_parameters() -> None:
    alone = BagAndSliceLoss(bag_weight=0)
    BagModule(tiny_classifier(aggregator=Mean(WIDTH, "instance")), Frozen(), alone, adamw(), cosine(), 1)
    for aggregator, loss in ((Mean(WIDTH), alone), (Mean(WIDTH, "instance"), BagAndSliceLoss(0, bag_weight=0))):
        with pytest.raises(UsageError, match=r"loss\.bag_weight=0 .* aggregator\.level=instance"):
            BagModule(tiny_classifier(aggregator=aggregator), Frozen(), loss, adamw(), cosine(), 1)


def test_training_mode_keeps_a_frozen_backbone_in_evaluation_mode() -> None:
    module = BagModule(tiny_classifier(), Frozen(), BagAndSliceLoss(), adamw(), cosine(), 1).train()
    assert not any(part.training for part in module.classifier.backbone.modules())
    assert module.classifier.aggregator.training
    module.eval()
    assert not module.classifier.aggregator.training


def test_an_epochs_losses_are_means_over_its_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    module = module_of().eval()
    first, second, third = noise_batch((3, 2)), noise_batch((2, 4, 1)), noise_batch((1,))
    second = dataclasses.replace(second, slice_labels=torch.full_like(second.slice_labels, -1))
    trainer: Any = SimpleNamespace(num_training_batches=3, accumulate_grad_batches=1)
    module.trainer = trainer
    logged: dict[str, float] = {}
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.update({name: float(value)}))
    with torch.no_grad():
        for index, batch in enumerate((first, second, third)):
            module.training_step(batch, index)
        own = [module.loss(module(b), b.bag_labels, b.slice_labels) for b in (first, second, third)]
    assert "slice_loss" not in own[1]
    expected = {
        f"train/{name}": (2 * own[0][name] + 3 * own[1][name] + own[2][name]) / 6 for name in ("loss", "bag_loss")
    }
    expected["train/slice_loss"] = (2 * own[0]["slice_loss"] + own[2]["slice_loss"]) / 3  # of those with labels
    assert logged == pytest.approx({name: float(value) for name, value in expected.items()}, rel=1e-5)


def test_a_loss_without_labels_is_not_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    module, batch = module_of().eval(), noise_batch((3, 2))
    trainer: Any = SimpleNamespace(num_training_batches=1, accumulate_grad_batches=1)
    module.trainer = trainer
    logged = []
    monkeypatch.setattr(module, "log", lambda name, value, **options: logged.append(name))
    module.training_step(dataclasses.replace(batch, slice_labels=torch.full_like(batch.slice_labels, -1)), 0)
    assert logged == ["train/loss", "train/bag_loss"]
