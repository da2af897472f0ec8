"""Predictions of a trained classifier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.utils.data import DataLoader

from lungtl.data.bags import BagDataset, Features, collate
from lungtl.models.bag_classifier import BagClassifier, BagOutput
from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE
from lungtl.store.reader import Store
from lungtl.training.feature_cache import evaluating

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Predictions:
    """What a classifier says of a store's bags.

    Attributes:
        bags: bag_id, probability (float64).
        slices: bag_id, index, z_mm, label, weight, p_non_nodule, p_benign, p_malignant.
    """

    bags: pd.DataFrame
    slices: pd.DataFrame


def pick_device(accelerator: str) -> torch.device:
    """The device that auto, cpu, gpu or mps means here."""
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device({"gpu": "cuda"}.get(accelerator, accelerator))


def predict_bags(
    classifier: BagClassifier,
    store: Store,
    bag_ids: Sequence[str],
    features: Features | None,
    device: torch.device,
    batch_size: int = 8,
) -> Predictions:
    """Classify bags, all their slices, in evaluation mode.

    Args:
        classifier: trained.
        store: where the bags lie.
        bag_ids: which.
        features: from the feature cache, of the classifier's split; None reads voxels.
        device: where to compute.
        batch_size: bags at once; a bag's slices pass the backbone in the classifier's chunks.
    """
    import pandas as pd

    dataset = BagDataset(store, bag_ids, {}, features, classifier.preprocessor.neighbours)
    bags, slices = [], []
    with evaluating(classifier), torch.inference_mode():
        classifier.to(device)
        for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=collate):
            if batch.features is not None:
                output = classifier.classify([rows.to(device) for rows in batch.features])
            else:
                output = classifier([frames.to(device) for frames in batch.frames or []])
            probabilities = output.bag_logits.cpu().double().sigmoid().numpy()
            bags += list(zip(batch.bag_ids, probabilities, strict=True))
            slices += [_slice_rows(output, store, row, bag_id) for row, bag_id in enumerate(batch.bag_ids)]
    return Predictions(pd.DataFrame(bags, columns=["bag_id", "probability"]), pd.concat(slices, ignore_index=True))


def _slice_rows(output: BagOutput, store: Store, row: int, bag_id: str) -> pd.DataFrame:
    import pandas as pd

    labels = store.slice_labels(bag_id)
    count = len(labels)
    p = output.slice_logits[row, :count].cpu().double().softmax(dim=-1).numpy()
    return pd.DataFrame(
        {
            "bag_id": bag_id,
            "index": np.arange(count),
            "z_mm": store.z_mm(bag_id),
            "label": labels,
            "weight": output.weights[row, :count].cpu().double().numpy(),
            "p_non_nodule": p[:, NON_NODULE],
            "p_benign": p[:, BENIGN],
            "p_malignant": p[:, MALIGNANT],
        }
    )
