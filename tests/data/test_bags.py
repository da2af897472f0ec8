from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from lungtl.data.bags import BagDataset, collate, read_frames
from lungtl.store.reader import Store
from tests.stores import SIZE, toy_store

LENGTHS = (3, 10, 1)
IDS = ["b00", "b01", "b02"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class Numbered:
    """A row a slice: the bag's number, the slice's index, the view."""

    def rows(self, bag_id: str, view: int, kept: Tensor | None) -> Tensor:
        indices = torch.arange(LENGTHS[IDS.index(bag_id)]) if kept is None else kept
        return torch.tensor([[float(IDS.index(bag_id)), float(i), float(view)] for i in indices])


def numbered(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """[count, 2, 2]; slice i is filled with i."""
    return np.repeat(np.arange(count, dtype=np.int16), 4).reshape(count, 2, 2)


def test_frames_are_the_asked_slices_in_one_channel() -> None:
    frames = read_frames(numbered(5), np.array([4, 1]), neighbours=False)
    assert frames.shape == (2, 1, 2, 2)
    assert frames[:, 0, 0, 0].tolist() == [4, 1]


def test_neighbours_stand_in_order_and_the_ends_repeat() -> None:
    frames = read_frames(numbered(4), np.arange(4), neighbours=True)
    assert frames.shape == (4, 3, 2, 2)
    assert frames[:, :, 0, 0].tolist() == [[0, 0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]


def test_neighbours_of_drawn_slices_are_their_true_neighbours() -> None:
    assert read_frames(numbered(9), np.array([2, 7]), True)[:, :, 0, 0].tolist() == [[1, 2, 3], [6, 7, 8]]


def test_neighbours_of_a_single_slice_are_itself() -> None:
    assert read_frames(numbered(1), np.array([0]), True)[:, :, 0, 0].tolist() == [[0, 0, 0]]


def test_a_sample_holds_the_voxels_and_labels_of_its_bag(store: Store) -> None:
    sample = BagDataset(store, IDS, {"b01": 1})[1]
    assert (sample.bag_id, sample.bag_label, sample.features, sample.view) == ("b01", 1, None, 0)
    assert sample.slice_labels.tolist() == [0, 0, 0, 0, 0, 2, 0, 0, 0, 0]
    assert sample.frames is not None
    np.testing.assert_array_equal(sample.frames[:, 0].numpy(), store.voxels("b01"))


def test_the_order_is_the_one_asked_for_and_labels_may_be_unknown(store: Store) -> None:
    dataset = BagDataset(store, ["b02", "b00"], {"b00": 0})
    assert len(dataset) == 2
    assert [(dataset[i].bag_id, dataset[i].bag_label) for i in range(2)] == [("b02", -1), ("b00", 0)]


def test_padding_is_masked_and_its_labels_are_unknown(store: Store) -> None:
    dataset = BagDataset(store, IDS, {"b00": 0, "b01": 1, "b02": 0})
    batch = collate([dataset[i] for i in range(3)])
    assert batch.bag_ids == IDS
    assert batch.bag_labels.tolist() == [0, 1, 0]
    assert batch.mask.sum(dim=1).tolist() == list(LENGTHS)
    assert all(row[:n].all() and not row[n:].any() for row, n in zip(batch.mask, LENGTHS, strict=True))
    assert (batch.slice_labels[~batch.mask] == -1).all()
    assert batch.slice_labels[0, :3].tolist() == [0, 0, 0]
    assert batch.features is None
    assert batch.views == [0, 0, 0]
    assert batch.frames is not None
    assert [tuple(f.shape) for f in batch.frames] == [(n, 1, SIZE, SIZE) for n in LENGTHS]


def test_cached_features_take_the_place_of_voxels_and_are_not_padded(store: Store) -> None:
    dataset = BagDataset(store, IDS, {}, Numbered())
    batch = collate([dataset[i] for i in range(3)])
    assert batch.frames is None
    assert batch.features is not None
    assert [rows.tolist() for rows in batch.features] == [
        [[bag, i, 0] for i in range(n)] for bag, n in enumerate(LENGTHS)
    ]
    assert batch.mask.sum(dim=1).tolist() == list(LENGTHS)


def test_drawn_slices_are_sorted_distinct_and_keep_their_labels_and_features(store: Store) -> None:
    dataset = BagDataset(store, ["b01"], {}, Numbered(), draw=4)
    torch.manual_seed(0)
    seen = set()
    for _ in range(200):
        sample = dataset[0]
        assert sample.features is not None
        indices = sample.features[:, 1].long()
        assert len(indices) == 4
        assert (indices.diff() > 0).all()
        assert sample.slice_labels.tolist() == [2 if i == 5 else 0 for i in indices]
        seen.update(indices.tolist())
    assert seen == set(range(10))


@pytest.mark.parametrize("features", [None, Numbered()], ids=["voxels", "features"])
def test_a_view_is_drawn_for_each_bag_and_time(store: Store, features: Numbered | None) -> None:
    dataset = BagDataset(store, IDS, {}, features, augment=True)
    torch.manual_seed(0)
    views = [tuple(collate([dataset[i] for i in range(3)]).views) for _ in range(60)]
    assert {view for batch in views for view in batch} == set(range(8))
    assert len(set(views)) > 40  # bags turn independently of each other


def test_cached_features_are_of_the_view_that_was_drawn(store: Store) -> None:
    dataset = BagDataset(store, ["b01"], {}, Numbered(), augment=True)
    for _ in range(20):
        sample = dataset[0]
        assert sample.features is not None
        assert (sample.features[:, 2] == sample.view).all()


def test_slices_and_views_drawn_are_the_same_with_and_without_features(store: Store) -> None:
    def draws(features: Numbered | None) -> list[tuple[list[int], int]]:
        torch.manual_seed(3)
        dataset = BagDataset(store, ["b01", "b00"], {}, features, draw=4, augment=True)
        samples = [dataset[i % 2] for i in range(30)]
        voxels = [store.voxels(sample.bag_id) for sample in samples]
        return [
            (s.features[:, 1].int().tolist(), s.view)
            if s.features is not None
            else ([int((v == f[0].numpy()).all((1, 2)).argmax()) for f in s.frames], s.view)  # type: ignore[union-attr]
            for s, v in zip(samples, voxels, strict=True)
        ]

    assert draws(None) == draws(Numbered())


def test_the_draw_follows_from_the_seed(store: Store) -> None:
    dataset = BagDataset(store, ["b01"], {}, draw=4)

    def draw() -> torch.Tensor:
        torch.manual_seed(3)
        frames = [dataset[0].frames for _ in range(3)]
        return torch.cat([f for f in frames if f is not None])

    assert torch.equal(draw(), draw())


@pytest.mark.parametrize("draw", [None, 10, 11])
def test_a_bag_that_is_short_enough_is_taken_whole(store: Store, draw: int | None) -> None:
    frames = BagDataset(store, ["b01"], {}, draw=draw)[0].frames
    assert frames is not None
    np.testing.assert_array_equal(frames[:, 0].numpy(), store.voxels("b01"))
