"""Predictions of a trained classifier: one path for training, evaluation, prediction and served models."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lungtl.data.bags import Features, read_frames
from lungtl.data.batching import inference_chunks
from lungtl.data.field_of_view import UNKNOWN_SPACING, Spacing
from lungtl.data.store.reader import Store
from lungtl.models.bag_classifier import BagClassifier, SpacedVoxels, image_chunks
from lungtl.models.module_state import evaluation_mode
from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE

MOST_BYTES = 2**28  # of voxels or features at once when nothing trains, unless a single bag has more


class BagPrediction(NamedTuple):
    """What a classifier predicts for one bag of S slices."""

    probability: float  # of malignancy
    weights: NDArray[np.float64]  # float64 [S], sum 1
    slice_probabilities: NDArray[np.float64]  # float64 [S, 3]: non-nodule, benign, malignant


@dataclass(frozen=True)
class Predictions:
    """Predictions for bags of a store."""

    bags: pd.DataFrame  # bag_id, probability (float64)
    slices: pd.DataFrame  # bag_id, index, z_mm, label, weight, p_non_nodule, p_benign, p_malignant


def predict_volume(
    classifier: BagClassifier, voxels: NDArray[np.int16], spacing_mm: Spacing = UNKNOWN_SPACING
) -> BagPrediction:
    """Predict one bag from its voxels, int16 [S, H, W], on the classifier's device, in evaluation mode.

    `spacing_mm` is that of rows and columns, which fields of view in mm require.
    """
    device = next(classifier.parameters()).device
    with evaluation_mode(classifier), torch.inference_mode(), classifier.folded():
        (prediction,) = _classify(classifier, _embed(classifier, [(voxels, spacing_mm)], device))
    return prediction


def predict_bags(
    classifier: BagClassifier,
    store: Store,
    bag_ids: Sequence[str],
    features: Features | None,
    device: torch.device,
    batch_size: int = 8,
) -> Predictions:
    """Predict bags of a store, all their slices, in evaluation mode.

    `features` are from the feature cache, of the classifier's cut; None reads voxels. At most `batch_size` bags are
    predicted at once; slices are read and embedded in the classifier's chunks.
    """
    lengths = store.bags.set_index("bag_id")["n_slices"][list(bag_ids)].tolist()
    neighbours = classifier.preprocessor.neighbours
    bags, slices = [], []
    classifier.to(device)  # not in inference mode: what is moved there cannot train
    with (
        evaluation_mode(classifier),
        torch.inference_mode(),
        classifier.folded() if features is None else nullcontext(),
    ):
        for batch in inference_chunks(lengths, batch_size, most_slices(store, features, neighbours)):
            ids = [bag_ids[i] for i in batch]
            if features is not None:
                rows = [features.rows(bag_id, 0, None).to(device) for bag_id in ids]
            else:
                volumes = ((store.voxels(bag_id), store.spacing_mm(bag_id)) for bag_id in ids)
                rows = _embed(classifier, volumes, device, [lengths[i] for i in batch])
            for bag_id, prediction in zip(ids, _classify(classifier, rows), strict=True):
                bags.append((bag_id, prediction.probability))
                slices.append(_slice_table(prediction, store, bag_id))
    return Predictions(pd.DataFrame(bags, columns=["bag_id", "probability"]), pd.concat(slices, ignore_index=True))


def most_slices(store: Store, features: Features | None, neighbours: bool) -> int:
    """How many slices make up `MOST_BYTES`, judged by the first bag."""
    bag_id = str(store.bags["bag_id"].iloc[0])
    if features is not None:
        one = features.rows(bag_id, 0, torch.zeros(1, dtype=torch.int64)).nbytes
    else:
        one = read_frames(store.voxels(bag_id), np.zeros(1, np.int64), neighbours).nbytes
    return max(1, MOST_BYTES // one)


def _embed(
    classifier: BagClassifier,
    volumes: Iterable[SpacedVoxels],
    device: torch.device,
    lengths: list[int] | None = None,
) -> list[Tensor]:
    """What the feature cache would hold of bags, float [S_i, K] each."""
    chunks = [classifier.prefix(images) for images in image_chunks(classifier, volumes, device)]
    rows = torch.cat(chunks)
    return [rows] if lengths is None else list(rows.split(lengths))


def _classify(classifier: BagClassifier, rows: list[Tensor]) -> list[BagPrediction]:
    """Classify bags from their rows, float [S_i, K] each."""
    output = classifier.classify(rows)
    probabilities = output.bag_logits.cpu().double().sigmoid().numpy()
    return [
        BagPrediction(
            float(probabilities[i]),
            output.weights[i, : len(bag)].cpu().double().numpy(),
            output.slice_logits[i, : len(bag)].cpu().double().softmax(dim=-1).numpy(),
        )
        for i, bag in enumerate(rows)
    ]


def _slice_table(prediction: BagPrediction, store: Store, bag_id: str) -> pd.DataFrame:
    p = prediction.slice_probabilities
    return pd.DataFrame(
        {
            "bag_id": bag_id,
            "index": np.arange(len(p)),
            "z_mm": store.z_mm(bag_id),
            "label": store.slice_labels(bag_id),
            "weight": prediction.weights,
            "p_non_nodule": p[:, NON_NODULE],
            "p_benign": p[:, BENIGN],
            "p_malignant": p[:, MALIGNANT],
        }
    )
