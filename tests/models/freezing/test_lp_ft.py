from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.models.freezing.lp_ft import LpFt
from tests.models.freezing.cases import RESNET, rates
from tests.models.tiny import tiny_backbone

BACKBONE = tiny_backbone()


def unfreezing_epoch(freezing: LpFt, values: list[float]) -> int | None:
    """The epoch in which the backbone first trains, when validation goes like this."""
    for epoch, value in enumerate(values):
        freezing.apply(BACKBONE, epoch)
        if all(p.requires_grad for p in BACKBONE.parameters()):
            return epoch
        assert not any(p.requires_grad for p in BACKBONE.parameters())
        freezing.after_epoch(epoch, value)
    return None


@pytest.mark.parametrize(
    ("values", "epoch"),
    [
        ([5, 4, 3, 2, 1, 0, -1, -2], 6),  # improves to the end: probe_epochs
        ([5, 5, 5, 0], 3),  # epochs 1 and 2 are no better than 0
        ([5, 6, 4, 4.5, 4, 0], 5),  # epoch 2 is, 3 and 4 are not
        ([math.nan, math.nan, 1], 2),  # never a number
        ([5, 6], None),  # still waiting
    ],
)
def test_the_backbone_is_unfrozen_when_the_probe_stops_improving(values: list[float], epoch: int | None) -> None:
    assert unfreezing_epoch(LpFt(probe_epochs=6, patience=2), values) == epoch


def test_once_unfrozen_it_stays_unfrozen() -> None:
    freezing = LpFt(probe_epochs=1)
    for epoch in range(5):
        freezing.after_epoch(epoch, float(epoch))
    assert freezing.last_unfreezing(BACKBONE) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 11), st.integers(1, 12), st.integers(1, 4))
def test_a_restored_strategy_continues_unchanged(
    values: list[float], stop: int, probe_epochs: int, patience: int
) -> None:
    whole, first, second = (LpFt(probe_epochs, patience) for _ in range(3))
    for epoch, value in enumerate(values):
        whole.after_epoch(epoch, value)
        if epoch == stop:
            second.restore(first.state())
        (first if epoch < stop else second).after_epoch(epoch, value)
    expected = first if stop >= len(values) else second
    assert whole.state() == expected.state()
    assert whole.groups(BACKBONE) == expected.groups(BACKBONE)


def test_before_unfreezing_the_epoch_is_the_latest_possible() -> None:
    freezing = LpFt(probe_epochs=9, patience=1)
    (group,) = freezing.groups(BACKBONE)
    assert (group.epoch, group.at_latest) == (9, True)
    freezing.after_epoch(0, 1.0)
    freezing.after_epoch(1, 1.0)
    (group,) = freezing.groups(BACKBONE)
    assert (group.epoch, group.at_latest) == (2, False)


def test_the_backbone_has_one_learning_rate() -> None:
    assert rates(LpFt(lr_scale=0.2), RESNET, 0.5) == pytest.approx({"head": 0.5, "backbone": 0.1})
