from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from lightning_fabric.utilities import move_data_to_device
from torch import Tensor
from torch.utils.data._utils.pin_memory import pin_memory

from lungtl.data.bags import BagDataset, Batch, Sample, collate, draw_slices, read_frames
from lungtl.data.store.reader import Store
from tests.stores import SIZE, toy_store

LENGTHS = (3, 10, 1)
IDS = ["b00", "b01", "b02"]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


class Numbered:
    """A row a slice: the bag's number, the slice's index, the view."""

    views = 8

    def rows(self, bag_id: str, view: int, indices: Tensor | None) -> Tensor:
        chosen = torch.arange(LENGTHS[IDS.index(bag_id)]) if indices is None else indices
        return torch.tensor([[float(IDS.index(bag_id)), float(i), float(view)] for i in chosen])


def numbered(count: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
    """[count, 2, 2]; slice i is filled with i."""
    return np.repeat(np.arange(count, dtype=np.int16), 4).reshape(count, 2, 2)


def test_frames_are_the_requested_slices_in_one_channel() -> None:
    frames = read_frames(numbered(5), np.array([4, 1]), neighbours=False)
    assert frames.shape == (2, 1, 2, 2)
    assert frames[:, 0, 0, 0].tolist() == [4, 1]


def test_neighbours_are_in_order_and_the_ends_repeat() -> None:
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


def test_the_order_is_kept_and_labels_may_be_unknown(store: Store) -> None:
    dataset = BagDataset(store, ["b02", "b00"], {"b00": 0})
    assert len(dataset) == 2
    assert [(dataset[i].bag_id, dataset[i].bag_label) for i in range(2)] == [("b02", -1), ("b00", 0)]


def test_the_labels_of_padding_are_unknown(store: Store) -> None:
    dataset = BagDataset(store, IDS, {"b00": 0, "b01": 1, "b02": 0})
    batch = collate([dataset[i] for i in range(3)])
    assert batch.bag_ids == IDS
    assert batch.bag_labels.tolist() == [0, 1, 0]
    assert [positions.tolist() for positions in batch.positions] == [list(range(n)) for n in LENGTHS]
    assert [int((row == -1).sum()) for row in batch.slice_labels] == [10 - n for n in LENGTHS]
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


def test_every_slice_with_a_nodule_is_drawn_and_others_at_random() -> None:
    labels = torch.tensor([0, -1, 2, 0, 1, 0, -1, 0, 2, 0])
    seen: list[int] = []
    for seed in range(300):
        drawn = draw_slices(labels, 5, torch.Generator().manual_seed(seed)).tolist()
        assert drawn == sorted(set(drawn))
        assert {2, 4, 8} <= set(drawn)
        seen += [i for i in drawn if i not in (2, 4, 8)]
    # two of the seven others each time, unknown labels among them: 86 expected, standard deviation 7.8
    assert all(50 <= seen.count(i) <= 120 for i in (0, 1, 3, 5, 6, 7, 9))


def test_too_many_nodule_slices_are_sampled() -> None:
    labels = torch.tensor([0, 1, 2, 1, 2, 0])
    drawn = [tuple(draw_slices(labels, 2, torch.Generator().manual_seed(seed)).tolist()) for seed in range(200)]
    assert set(drawn) == {(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4)}


@given(st.lists(st.sampled_from([-1, 0, 1, 2]), min_size=1, max_size=40), st.data())
def test_the_requested_number_is_drawn_with_nodules_first(labels: list[int], data: st.DataObject) -> None:
    count = data.draw(st.integers(1, len(labels)))
    drawn = draw_slices(torch.tensor(labels), count, torch.Generator().manual_seed(0)).tolist()
    assert len(set(drawn)) == count
    nodules = {i for i, label in enumerate(labels) if label > 0}
    assert len(nodules & set(drawn)) == min(count, len(nodules))


def drawn_anew(dataset: BagDataset, times: int, bag: int = 0) -> list[Sample]:
    """The same bag in so many draws."""
    return [dataset[bag + len(dataset) * again] for again in range(times)]


def test_drawn_slices_keep_their_positions_labels_and_features(store: Store) -> None:
    dataset = BagDataset(store, ["b01"], {}, Numbered(), draw=4)
    seen = set()
    for sample in drawn_anew(dataset, 100):
        assert sample.features is not None
        indices = sample.features[:, 1].long()
        assert torch.equal(indices, sample.positions)
        assert len(indices) == 4
        assert 5 in indices  # the one with the nodule
        assert sample.slice_labels.tolist() == [2 if i == 5 else 0 for i in indices]
        seen.update(indices.tolist())
    assert seen == set(range(10))


def test_drawn_frames_are_those_at_the_positions(store: Store) -> None:
    batch = collate(drawn_anew(BagDataset(store, ["b01"], {}, draw=4, neighbours=True), 3))
    assert batch.frames is not None
    for frames, positions in zip(batch.frames, batch.positions, strict=True):
        assert positions.dtype == torch.int64
        np.testing.assert_array_equal(frames[:, 1].numpy(), store.voxels("b01")[positions.numpy()])


def test_positions_of_whole_bags_count_from_0(store: Store) -> None:
    dataset = BagDataset(store, IDS, {}, draw=10)
    assert [p.tolist() for p in collate([dataset[i] for i in range(3)]).positions] == [list(range(n)) for n in LENGTHS]


@pytest.mark.parametrize("features", [None, Numbered()], ids=["voxels", "features"])
def test_a_view_is_drawn_for_each_bag_and_time(store: Store, features: Numbered | None) -> None:
    views = [
        tuple(BagDataset(store, IDS, {}, features, augment=True, key=(0, epoch))[i].view for i in range(3))
        for epoch in range(60)
    ]
    assert {view for batch in views for view in batch} == set(range(8))
    assert len(set(views)) > 40  # bags turn independently of each other


def test_cached_features_are_of_the_view_that_was_drawn(store: Store) -> None:
    for sample in drawn_anew(BagDataset(store, ["b01"], {}, Numbered(), augment=True), 20):
        assert sample.features is not None
        assert (sample.features[:, 2] == sample.view).all()


def draws(dataset: BagDataset) -> list[tuple[list[int], int]]:
    return [(s.positions.tolist(), s.view) for s in drawn_anew(dataset, 10, bag=1)]


def test_draws_follow_from_seed_epoch_and_index_alone(store: Store) -> None:
    def made(features: Numbered | None = None, key: tuple[int, int] = (3, 1)) -> BagDataset:
        return BagDataset(store, ["b02", "b01"], {}, features, draw=4, augment=True, key=key)

    expected = draws(made())
    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert draws(made(Numbered())) == expected
    assert torch.equal(torch.get_rng_state(), state)  # dropout's is left alone
    assert made()[5].positions.tolist() == expected[2][0]  # independent of earlier calls
    assert draws(made(key=(3, 2))) != expected
    assert draws(made(key=(4, 1))) != expected
    assert len({tuple(positions) for positions, _ in expected}) > 5


@pytest.mark.parametrize("draw", [None, 10, 11])
def test_short_bags_keep_all_slices(store: Store, draw: int | None) -> None:
    frames = BagDataset(store, ["b01"], {}, draw=draw)[0].frames
    assert frames is not None
    np.testing.assert_array_equal(frames[:, 0].numpy(), store.voxels("b01"))


def tensors(batch: Batch) -> list[Tensor]:
    lists = [*(batch.features or []), *(batch.frames or []), *batch.positions]
    return [batch.bag_labels, batch.slice_labels, *lists]


@pytest.mark.parametrize("features", [None, Numbered()], ids=["voxels", "features"])
def test_a_loader_pins_every_tensor_of_a_batch(
    store: Store, features: Numbered | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = BagDataset(store, IDS, {"b01": 1}, features)
    batch = collate([dataset[i] for i in range(3)])
    if not torch.cuda.is_available():  # a fake that marks its tensors
        monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor.clone().as_subclass(Pinned))
        monkeypatch.setattr(Tensor, "is_pinned", lambda tensor: isinstance(tensor, Pinned))
    pinned = pin_memory(batch)
    assert all(tensor.is_pinned() for tensor in tensors(pinned))
    assert not any(tensor.is_pinned() for tensor in tensors(batch))
    assert all(torch.equal(a, b) for a, b in zip(tensors(pinned), tensors(batch), strict=True))
    assert (pinned.bag_ids, pinned.views) == (batch.bag_ids, batch.views)
    assert (pinned.features is None, pinned.frames is None) == (batch.features is None, batch.frames is None)


class Pinned(Tensor):
    pass


@pytest.mark.parametrize("features", [None, Numbered()], ids=["voxels", "features"])
def test_lightning_moves_every_tensor_of_a_batch(store: Store, features: Numbered | None) -> None:
    dataset = BagDataset(store, IDS, {"b01": 1}, features)
    batch = collate([dataset[i] for i in range(3)])
    moved = move_data_to_device(batch, torch.device("meta"))
    assert isinstance(moved, Batch)
    assert {tensor.device.type for tensor in tensors(moved)} == {"meta"}
    assert len(tensors(moved)) == len(tensors(batch)) == 2 + 3 + 3
    assert {tensor.device.type for tensor in tensors(batch)} == {"cpu"}
