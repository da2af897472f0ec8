"""The bags of a store as Lightning's loaders."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pytorch_lightning as pl
from numpy.typing import NDArray
from torch.utils.data import DataLoader

from lungtl.config import TrainConfig
from lungtl.data.bags import BagDataset, Sample, collate
from lungtl.store.reader import Store

if TYPE_CHECKING:
    import pandas as pd


class BagDataModule(pl.LightningDataModule):
    """Training and validation bags.

    Args:
        store: where the bags lie.
        split: bag_id, patient_id, label, split; checked (see `lungtl.data.splits`).
        config: of the run.
        features: from the feature cache, when the backbone is frozen.
        backbone_trains: then a training step sees `image.train_slices` of each bag; otherwise all of them.
    """

    def __init__(
        self,
        store: Store,
        split: pd.DataFrame,
        config: TrainConfig,
        features: Mapping[str, NDArray[np.float32]] | None,
        backbone_trains: bool,
    ) -> None:
        super().__init__()
        self.store = store
        self.split = split
        self.config = config
        self.features = features
        self.backbone_trains = backbone_trains

    def train_dataloader(self) -> DataLoader[Sample]:
        """Shuffled; a fine-tuned backbone sees a random part of each bag's slices."""
        return self._loader("train", draw=self.config.image.train_slices if self.backbone_trains else None)

    def val_dataloader(self) -> DataLoader[Sample]:
        """All slices, in the table's order."""
        return self._loader("val", draw=None)

    def _loader(self, name: str, draw: int | None) -> DataLoader[Sample]:
        part = self.split[self.split["split"] == name]
        labels = dict(zip(part["bag_id"], part["label"], strict=True))
        dataset = BagDataset(
            self.store, list(part["bag_id"]), labels, self.features, self.config.image.neighbours, draw
        )
        trainer = self.config.trainer
        return DataLoader(
            dataset,
            batch_size=trainer.batch_size,
            shuffle=name == "train",
            collate_fn=collate,
            num_workers=trainer.workers,
            persistent_workers=trainer.workers > 0,
            pin_memory=trainer.accelerator == "gpu",
        )
