"""Predictions of a trained classifier."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from lungtl.data.bags import Features, read_frames
from lungtl.data.batching import loads
from lungtl.data.store.reader import Store
from lungtl.models.bag_classifier import BagClassifier, BagOutput
from lungtl.models.images import image_chunks
from lungtl.models.module_state import evaluation_mode
from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE

MOST_BYTES = 2**28
"""Of voxels, or of features, at once where nothing trains, unless one bag alone has more."""

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
        batch_size: bags at once, fewer where they are long; slices are read and embedded in the classifier's chunks.
    """
    import pandas as pd

    lengths = store.bags.set_index("bag_id")["n_slices"][list(bag_ids)].tolist()
    neighbours = classifier.preprocessor.neighbours
    bags, slices = [], []
    classifier.to(device)  # not in inference mode: what is moved there cannot train
    with (
        evaluation_mode(classifier),
        torch.inference_mode(),
        classifier.folded() if features is None else nullcontext(),
    ):
        for load in loads(lengths, batch_size, most_slices(store, features, neighbours)):
            ids = [bag_ids[i] for i in load]
            if features is not None:
                rows = [features.rows(bag_id, 0, None).to(device) for bag_id in ids]
            else:
                rows = _rows(classifier, store, ids, device, [lengths[i] for i in load])
            output = classifier.classify(rows)
            probabilities = output.bag_logits.cpu().double().sigmoid().numpy()
            bags += list(zip(ids, probabilities, strict=True))
            slices += [_slice_rows(output, store, row, bag_id) for row, bag_id in enumerate(ids)]
    return Predictions(pd.DataFrame(bags, columns=["bag_id", "probability"]), pd.concat(slices, ignore_index=True))


def most_slices(store: Store, features: Features | None, neighbours: bool) -> int:
    """How many slices make up `MOST_BYTES`, the first bag's taken for all."""
    bag_id = str(store.bags["bag_id"].iloc[0])
    if features is not None:
        one = features.rows(bag_id, 0, torch.zeros(1, dtype=torch.int64)).nbytes
    else:
        one = read_frames(store.voxels(bag_id), np.zeros(1, np.int64), neighbours).nbytes
    return max(1, MOST_BYTES // one)


def _rows(
    classifier: BagClassifier, store: Store, bag_ids: Sequence[str], device: torch.device, lengths: list[int]
) -> list[Tensor]:
    """What the feature cache would hold of bags, float [S_i, K] each."""
    chunks = [classifier.split.prefix(images) for images in image_chunks(classifier, store, bag_ids, device)]
    return list(torch.cat(chunks).split(lengths))


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
