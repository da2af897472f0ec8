from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from lungtl.data.bags import Batch
from lungtl.data.batching import TOLERATED, padding, shuffled, split_evenly
from lungtl.data.store.reader import Store
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.training import datamodule
from lungtl.training.datamodule import BagDataModule
from tests.stores import toy_store
from tests.training.test_fit import config_of

LENGTHS = (2, 9, 1, 9, 2, 8, 3, 2, 4, 1, 2, 3, 2, 5, 1, 6)
TRAIN = [f"b{i:02d}" for i in range(12)]
VAL = [f"b{i:02d}" for i in range(12, 16)]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def module_of(store: Store, config: TrainConfig, epoch: int = 0, positives: int | None = None) -> BagDataModule:
    """In an epoch of a run whose backbone trains; the first so many bags are positive, or every other."""
    table = store.bags[["bag_id", "patient_id"]].assign(label=store.bags["bag_label"].astype(int))
    if positives is not None:
        table["label"] = (np.arange(len(table)) < positives).astype(int)
    data = BagDataModule(store, table.assign(split=["train"] * 12 + ["val"] * 4), config, None, backbone_trains=True)
    trainer: Any = SimpleNamespace(current_epoch=epoch)
    data.trainer = trainer
    return data


def ids(batches: Iterable[Any]) -> list[list[str]]:
    return [batch.bag_ids for batch in batches]


def flat(batches: list[list[str]]) -> list[str]:
    return [bag_id for batch in batches for bag_id in batch]


def seen(batches: Iterable[Any]) -> list[tuple[str, list[int], int]]:
    """What each bag showed: its slices, its view."""
    return [
        (bag_id, positions.tolist(), view)
        for batch in batches
        for bag_id, positions, view in zip(batch.bag_ids, batch.positions, batch.views, strict=True)
    ]


@pytest.mark.parametrize("bucket", [False, True])
def test_each_epoch_has_every_bag_once_in_a_new_order(store: Store, tmp_path: Path, bucket: bool) -> None:
    config = config_of(tmp_path, bucket=bucket)
    orders = [ids(module_of(store, config, epoch).train_dataloader()) for epoch in range(4)]
    assert all(sorted(flat(order)) == TRAIN for order in orders)
    assert len({tuple(flat(order)) for order in orders}) == 4


def test_a_resumed_run_continues_the_random_state(store: Store, tmp_path: Path) -> None:
    config = config_of(tmp_path, augment="dihedral")
    expected = seen(module_of(store, config, epoch=5).train_dataloader())
    torch.manual_seed(99)
    torch.rand(7)
    assert seen(module_of(store, config, epoch=5).train_dataloader()) == expected
    assert seen(module_of(store, config, epoch=6).train_dataloader()) != expected
    other = config.model_copy(update={"seed": 1})
    assert seen(module_of(store, other, epoch=5).train_dataloader()) != expected


def test_bucketing_uses_the_number_of_sampled_slices(store: Store, tmp_path: Path) -> None:
    data = module_of(store, config_of(tmp_path, train_slices=None, bucket=True))
    lengths = [list(map(len, batch.positions)) for batch in data.train_dataloader()]
    assert sorted(map(sorted, lengths)) == [[1, 1, 2], [2, 2, 2], [3, 3, 4], [8, 9, 9]]
    config = config_of(tmp_path, train_slices=1, bucket=True)  # all show one slice then
    epochs = [ids(module_of(store, config, epoch).train_dataloader()) for epoch in range(4)]
    assert len({frozenset(map(frozenset, batches)) for batches in epochs}) == 4


def test_bags_are_bucketed_if_much_would_be_padding(store: Store, tmp_path: Path) -> None:
    def batches(bucket: object, train_slices: int | None) -> list[list[str]]:
        return ids(module_of(store, config_of(tmp_path, train_slices=train_slices, bucket=bucket)).train_dataloader())

    assert batches("auto", None) == batches(True, None) != batches(False, None)
    assert batches("auto", 1) == batches(False, 1) != batches(True, 1)  # all show one slice: nothing is padding


def test_the_balanced_sampler_draws_the_rare_class_as_often(store: Store, tmp_path: Path) -> None:
    config = config_of(tmp_path, train_slices=2, augment="dihedral", sampler="balanced")
    labels: list[int] = []
    again: list[bool] = []
    for epoch in range(40):
        batches: list[Any] = list(module_of(store, config, epoch, positives=2).train_dataloader())
        shown = seen(batches)
        assert len(shown) == 12
        labels += [int(label) for batch in batches for label in batch.bag_labels]
        # b01 has nine slices: in two draws of an epoch it is hardly ever the same
        of_b01 = [(positions, view) for bag_id, positions, view in shown if bag_id == "b01"]
        again += [a == b for i, a in enumerate(of_b01) for b in of_b01[:i]]
    assert np.mean(labels) == pytest.approx(0.5, abs=0.1)  # standard deviation 0.023; 0.17 as they are
    assert len(again) > 50
    assert np.mean(again) < 0.1


@pytest.mark.parametrize("sampler", ["shuffle", "balanced"])
@pytest.mark.parametrize("bucket", [False, True])
def test_the_ranks_batches_make_up_those_of_one_process(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str, bucket: bool
) -> None:
    config = config_of(tmp_path, batch_size=4, augment="dihedral", sampler=sampler, bucket=bucket)
    whole: list[Any] = list(module_of(store, config, 3).train_dataloader())
    validated = flat(ids(module_of(store, config, 3).val_dataloader()))
    monkeypatch.setattr(datamodule, "world_size", lambda: 3)
    shares: list[list[Batch]] = []
    val: list[str] = []
    for rank in range(3):
        monkeypatch.setattr(datamodule, "rank", lambda own=rank: own)
        shares.append(list(module_of(store, config, 3).train_dataloader()))
        val += flat(ids(module_of(store, config, 3).val_dataloader()))
    for batch, *own in zip(whole, *shares, strict=True):
        assert sorted(seen(own)) == sorted(seen([batch]))
    assert sorted(val) == sorted(validated) == VAL


def test_more_processes_than_validation_bags_are_refused(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datamodule, "world_size", lambda: 5)
    with pytest.raises(UsageError, match=r"4 validation cases for 5 processes.*trainer\.devices=4"):
        module_of(store, config_of(tmp_path)).val_dataloader()


def test_bucketing_is_decided_once(tmp_path: Path) -> None:
    """Three long bags among short ones, two a batch: a quarter is padding where no two of the long ones meet."""
    lengths = [3] * 9 + [9] * 3
    orders = [split_evenly(shuffled(12, 0, epoch), 2) for epoch in range(10)]
    wasted = [padding(batches, np.array(lengths)) > TOLERATED for batches in orders]
    assert set(wasted) == {True, False}
    store = toy_store(tmp_path, [*lengths, 1, 1, 1, 1])

    def batches(bucket: object, epoch: int) -> list[list[str]]:
        config = config_of(tmp_path, train_slices=None, batch_size=2, bucket=bucket)
        return ids(module_of(store, config, epoch).train_dataloader())

    assert all(batches("auto", epoch) == batches(wasted[0], epoch) for epoch in range(10))


@pytest.mark.parametrize("workers", [1, 2])
def test_loader_processes_draw_what_one_process_draws(store: Store, tmp_path: Path, workers: int) -> None:
    expected, found = (
        seen(module_of(store, config_of(tmp_path, augment="dihedral", workers=n), 2).train_dataloader())
        for n in (0, workers)
    )
    assert found == expected


def test_validation_shows_all_slices_in_the_tables_order(store: Store, tmp_path: Path) -> None:
    data = module_of(store, config_of(tmp_path, augment="dihedral"))
    assert seen(data.val_dataloader()) == [
        (bag_id, list(range(n)), 0) for bag_id, n in zip(VAL, LENGTHS[12:], strict=True)
    ]


def test_validation_holds_few_slices_at_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datamodule, "most_slices", lambda *_: 5)
    batches: list[Any] = list(module_of(store, config_of(tmp_path, batch_size=8)).val_dataloader())
    assert [list(map(len, batch.positions)) for batch in batches] == [[2], [5], [1], [6]]


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 3), (6, 2), (12, 1)])
def test_a_loader_has_no_more_processes_than_batches(
    store: Store, tmp_path: Path, batch_size: int, expected: int
) -> None:
    data = module_of(store, config_of(tmp_path, workers=3, batch_size=batch_size))
    assert data.train_dataloader().num_workers == expected
