"""Training and validation loaders of a store's bags."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lungtl.data import batching
from lungtl.data.bags import BagDataset, Features, Sample, collate
from lungtl.data.splits import EXTRA
from lungtl.data.store.reader import Store
from lungtl.models.collectives import rank, world_size
from lungtl.models.inference import most_slices
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.training.devices import loader_processes, pick_device
from lungtl.training.readers import scaled_ratings


class BagDataModule(pl.LightningDataModule):
    """Training and validation bags of a store, split by a table of bag_id, label and split.

    Loaders are created for each epoch (`reload_dataloaders_every_n_epochs=1`), and their random choices depend on the
    run's seed and the epoch. Each DDP rank gets its share of the same batches. Without features, voxels are read. If
    the backbone trains, a training step uses `image.train_slices` of each bag, otherwise all slices.
    """

    def __init__(
        self,
        store: Store,
        split: pd.DataFrame,
        config: TrainConfig,
        features: Features | None,
        backbone_trains: bool,
    ) -> None:
        super().__init__()
        self.store = store
        self.split = split
        self.config = config
        self.features = features
        self.backbone_trains = backbone_trains
        self._processes = loader_processes(config.trainer, cached=features is not None)

    def train_dataloader(self) -> DataLoader[Sample]:
        """The epoch's batches, augmented; raises UsageError if one has fewer bags than there are ranks."""
        settings, seed = self.config.trainer, self.config.seed
        epoch = self.trainer.current_epoch if self.trainer else 0
        draw = self.config.image.train_slices if self.backbone_trains else None
        dataset = self._dataset(("train", EXTRA), draw, self.config.image.augment != "none", (seed, epoch))
        count = len(dataset)
        if settings.sampler == "balanced":
            order = batching.balanced([int(dataset.labels[bag_id]) for bag_id in dataset.bag_ids], seed, epoch)
        else:
            order = batching.shuffled(count, seed, epoch)
        lengths = self._lengths(dataset) if draw is None else np.minimum(self._lengths(dataset), draw)
        if self._buckets(lengths):
            batches = batching.bucketed(order, lengths, settings.batch_size, seed, epoch)
        else:
            batches = batching.split_evenly(order, settings.batch_size)
        return self._loader(dataset, batching.rank_share(batching.number_repeats(batches, count), rank(), world_size()))

    def val_dataloader(self) -> DataLoader[Sample]:
        """All slices of this rank's bags, in order; raises UsageError if there are fewer bags than ranks."""
        dataset = self._dataset(("val",), draw=None, augment=False, key=(self.config.seed, 0))
        if len(dataset) < world_size():
            raise UsageError(
                f"{len(dataset)} validation cases for {world_size()} processes; use trainer.devices={len(dataset)} or "
                "a larger split.val"
            )
        dataset.bag_ids = dataset.bag_ids[rank() :: world_size()]
        most = most_slices(self.store, self.features, self.config.image.neighbours)
        return self._loader(
            dataset, batching.inference_chunks(list(self._lengths(dataset)), self.config.trainer.batch_size, most)
        )

    def _buckets(self, lengths: NDArray[np.int64]) -> bool:
        """Whether bags of similar length share a batch; the same in every epoch."""
        settings = self.config.trainer
        if settings.bucket != "auto":
            return settings.bucket
        first = batching.split_evenly(batching.shuffled(len(lengths), self.config.seed, epoch=0), settings.batch_size)
        return batching.padding(first, lengths) > batching.TOLERATED

    def _dataset(self, names: Sequence[str], draw: int | None, augment: bool, key: tuple[int, int]) -> BagDataset:
        part = self.split[self.split["split"].isin(names)]
        if "train" in names:
            part = with_targets(part, self.store, self.config)
        labels: Mapping[str, float] = dict(zip(part["bag_id"], part["label"], strict=True))
        neighbours = self.config.image.neighbours
        jitter = augment and self.config.image.augment == "ct"
        bag_ids = list(part["bag_id"])
        ratings = scaled_ratings(self.store.bags) if "train" in names and self.config.trains_on_ratings else None
        return BagDataset(self.store, bag_ids, labels, self.features, neighbours, draw, augment, jitter, key, ratings)

    def _lengths(self, dataset: BagDataset) -> NDArray[np.int64]:
        return self.store.bags.set_index("bag_id")["n_slices"][dataset.bag_ids].to_numpy(np.int64)

    def _loader(self, dataset: BagDataset, batches: Sequence[list[int]]) -> DataLoader[Sample]:
        return DataLoader(
            dataset,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=min(self._processes, len(batches)),
            pin_memory=pick_device(self.config.trainer.accelerator).type == "cuda",
        )


def with_targets(bags: pd.DataFrame, store: Store, config: TrainConfig) -> pd.DataFrame:
    """Training bags with what their loss compares with as label: their label, or the readers' votes."""
    if not config.trains_on_votes:
        return bags
    return bags.assign(label=store.bags.set_index("bag_id")["votes"][list(bags["bag_id"])].to_numpy())
