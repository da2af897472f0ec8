from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.gradual import Gradual
from lungtl.models.freezing.layer_decay import LayerDecay
from lungtl.models.freezing.lp_ft import LpFt
from lungtl.models.freezing.norm_only import NormOnly
from lungtl.settings import checks, parts
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.training.plan import print_plan, trainable_share, training_plan
from tests.models.tiny import tiny_classifier
from tests.training.test_fit import config_of

BEHIND = ["projection", "slice_head", "aggregator"]


def planned(freezing: FreezingStrategy, max_epochs: int = 40) -> list[tuple[Any, ...]]:
    """Trainable parameters, learning rates and epochs of the five blocks of a small ResNet."""
    rows = training_plan(tiny_classifier(), freezing, 0.5, max_epochs)
    assert [row.part for row in rows[5:]] == BEHIND
    assert all((row.rates, row.epochs) == ((0.5,), ("1",)) for row in rows[5:])
    return [(row.trainable, row.rates, row.epochs) for row in rows[:5]]


def sizes() -> list[int]:
    """Parameters of the five blocks: stem, then four layers."""
    net: Any = tiny_classifier().backbone.net
    stem = nn.ModuleList([net.conv1, net.bn1])
    return [
        sum(p.numel() for p in part.parameters()) for part in (stem, net.layer1, net.layer2, net.layer3, net.layer4)
    ]


def test_a_frozen_backbone_never_trains() -> None:
    assert planned(Frozen()) == [(0, (), ())] * 5


def test_blocks_that_are_unfrozen_one_by_one() -> None:
    n = sizes()
    assert planned(Gradual(every=3, lr_scale=0.5, most=3), max_epochs=9) == [
        (0, (), ()), (0, (), ()),
        (n[2], (0.25,), ("10, after the end",)), (n[3], (0.25,), ("7",)), (n[4], (0.25,), ("4",)),
    ]  # fmt: skip


def test_a_learning_rate_for_each_block() -> None:
    rates = [rate for _, rates, _ in planned(LayerDecay(decay=0.5, lr_scale=1.0)) for rate in rates]
    assert rates == [0.03125, 0.0625, 0.125, 0.25, 0.5]


def test_a_probe_has_a_maximum_length() -> None:
    assert {epochs for _, _, epochs in planned(LpFt(probe_epochs=7))} == {("8 at the latest",)}


def test_a_part_of_each_block() -> None:
    counts = [
        sum(p.numel() for m in part.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
        for part in tiny_classifier().backbone.get_submodule("net").children()
    ]
    found = [trainable for trainable, _, _ in planned(NormOnly())]
    assert sum(found) == sum(counts)
    assert all(0 < some < every for some, every in zip(found, sizes(), strict=True))


@pytest.mark.parametrize("freezing", [Frozen(), Gradual(1), NormOnly()])
def test_its_sums_are_those_of_the_run(freezing: FreezingStrategy) -> None:
    classifier = tiny_classifier()
    rows = training_plan(classifier, freezing, 0.5, 40)
    assert (sum(row.trainable for row in rows), sum(row.parameters for row in rows)) == trainable_share(
        classifier, freezing, 40
    )


def test_the_table_needs_neither_weights_nor_data(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = config_of(tmp_path / "nothing")
    # its weights would come from the hub, and nothing is read from this file
    backbone = {**config.backbone, "name": "resnet18", "weights": str(tmp_path / "missing.safetensors")}
    freezing = {parts.TARGET: "lungtl.models.freezing.last_blocks.LastBlocks", "n": 1}
    print_plan(config.model_copy(update={"backbone": backbone, "freezing": freezing}))
    out = capsys.readouterr().out
    assert "LastBlocks" in out
    (layer4,) = (line for line in out.splitlines() if "layer4" in line)
    assert [cell.strip() for cell in layer4.split("│")[2:6]] == ["8,393,728", "8,393,728", "0.001", "1"]
    (stem,) = (line for line in out.splitlines() if "conv1" in line)
    assert [cell.strip() for cell in stem.split("│")[3:6]] == ["0", "-", "never"]
    assert not (tmp_path / "nothing").exists()


def test_a_dry_run_of_a_resumed_run_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UsageError, match=r"dry_run=true with resume=/x: .*omit one"):
        checks.check("train", TrainConfig, ["dry_run=true", "resume=/x"], multirun=False)
