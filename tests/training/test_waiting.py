"""What a GPU's host must not wait for: a training step that asks for a value holds up all that comes after it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml

from lungtl.models.freezing.full import Full
from lungtl.settings import parts
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import WIDTH, adamw, cosine, noise_batch, tiny_classifier

META = torch.device("meta")  # nothing has a value there: to ask for one is an error
AGGREGATORS = Path(__file__).parents[2] / "conf" / "aggregator"
NOT_HERE = {
    "gru",  # packs sequences by their lengths, which torch wants on the CPU
    "clam", "dsmil", "sm_attention", "transmil",  # torchmil's: they leave mixed precision, which meta does not know
}  # fmt: skip


@pytest.mark.parametrize("name", sorted({path.stem for path in AGGREGATORS.glob("*.yaml")} - NOT_HERE))
def test_a_training_step_does_not_synchronise(name: str) -> None:
    aggregator = parts.build(yaml.safe_load((AGGREGATORS / f"{name}.yaml").read_text()), dim=WIDTH)
    step(BagModule(tiny_classifier(aggregator=aggregator), Full(), BagAndSliceLoss(), adamw(), cosine(), 2))


@pytest.mark.parametrize(
    "options", [{"slice_weight": 0.0}, {"attention_weight": 0.5}, {"bag_gamma": 2.0, "slice_smoothing": 0.1}]
)
def test_a_loss_does_not_synchronise(options: dict[str, float]) -> None:
    step(BagModule(tiny_classifier(), Full(), BagAndSliceLoss(**options), adamw(), cosine(), 2))  # type: ignore[arg-type]


def step(module: BagModule) -> None:
    """Forward, loss and backward where nothing has a value."""
    batch = noise_batch().to(META)
    module.to(META)
    loss = module.loss.combined(module.loss.parts(module(batch), batch.bag_labels, batch.slice_labels))
    loss.backward()
    assert loss.device == META
