"""The bags of a store as Lightning's loaders."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytorch_lightning as pl
from torch.utils.data import DataLoader

from lungtl.config import TrainConfig
from lungtl.data.bags import BagDataset, Features, Sample, collate
from lungtl.store.reader import Store

if TYPE_CHECKING:
    import pandas as pd


class BagDataModule(pl.LightningDataModule):
    """Training and validation bags.

    Args:
        store: where the bags lie.
        split: bag_id, patient_id, label, split; checked (see `lungtl.data.splits`).
        config: of the run.
        features: from the feature cache; None reads voxels.
        backbone_trains: then a training step sees `image.train_slices` of each bag; otherwise all of them.
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

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled and augmented; a fine-tuned backbone sees a random part of each bag's slices."""
        draw = self.config.image.train_slices if self.backbone_trains else None
        return self._loader("train", draw, augment=self.config.image.augment != "none")

    def val_dataloader(self) -> DataLoader[Sample]:
        """All slices, in the table's order, as they are."""
        return self._loader("val", draw=None, augment=False)

    def _loader(self, name: str, draw: int | None, augment: bool) -> DataLoader[Sample]:
        part = self.split[self.split["split"] == name]
        labels = dict(zip(part["bag_id"], part["label"], strict=True))
        neighbours = self.config.image.neighbours
        dataset = BagDataset(self.store, list(part["bag_id"]), labels, self.features, neighbours, draw, augment)
        trainer = self.config.trainer
        return DataLoader(
            dataset,
            batch_size=trainer.batch_size,
            shuffle=name == "train",
            collate_fn=collate,
            num_workers=trainer.workers,
            persistent_workers=False,  # new ones take their seed from the run's generator: a resumed run draws the same
            pin_memory=trainer.accelerator == "gpu",
        )
