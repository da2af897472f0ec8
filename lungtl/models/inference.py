"""Predictions of a trained classifier: one path for training, evaluation, prediction and served models.

With several dihedral views (`BagClassifier.views`), probabilities and slice weights are means over the views.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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

P_COLUMNS = ("p_non_nodule", "p_benign", "p_malignant")
"""Class probabilities of the slice head, in tables of slices."""
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


def predict_and_embed(
    classifier: BagClassifier, voxels: NDArray[np.int16], spacing_mm: Spacing = UNKNOWN_SPACING
) -> tuple[BagPrediction, Tensor]:
    """Predict one bag from its voxels, on the classifier's device, in evaluation mode.

    Args:
        classifier: trained.
        voxels: int16 [S, H, W].
        spacing_mm: of rows and columns, which fields of view in mm require.

    Returns:
        The prediction, and the features of the slices as they are, in no other view: float [S, row_width].
    """
    device = next(classifier.parameters()).device
    with evaluation_mode(classifier), torch.inference_mode(), classifier.folded():
        views = [_embed(classifier, [(voxels, spacing_mm)], device, view=view) for view in range(classifier.views)]
        prediction = mean_prediction([_classify(classifier, rows)[0] for rows in views])
    return prediction, views[0][0].clone()  # outside inference mode, so that gradients can pass through what uses it


def pool_bags(
    classifier: BagClassifier, store: Store, bag_ids: Iterable[str], features: Features | None, device: torch.device
) -> NDArray[np.float32]:
    """`pool_bag` of bags of a store, in their first view, float32 [n, 2 D]; for `features` see `predict_bags`."""
    classifier.to(device)
    with (
        evaluation_mode(classifier),
        torch.inference_mode(),
        classifier.folded() if features is None else nullcontext(),
    ):
        if features is not None:
            bags: Iterable[Tensor] = (features.rows(bag_id, 0, None).to(device) for bag_id in bag_ids)
        else:
            bags = (_embed(classifier, [(store.voxels(b), store.spacing_mm(b))], device)[0] for b in bag_ids)
        return np.stack([pool_bag(classifier, rows) for rows in bags])


def pool_bag(classifier: BagClassifier, rows: Tensor) -> NDArray[np.float32]:
    """`pool_slices` of a bag's embeddings, float32 [2 D], from its rows in the feature cache, float [S, row_width]."""
    with torch.inference_mode():
        return pool_slices(torch.cat([classifier.suffix(chunk.float()) for chunk in rows.split(classifier.chunk)]))


def pool_slices(embeddings: Tensor) -> NDArray[np.float32]:
    """Mean, then maximum over the slices of a bag: float [S, D] -> float32 [2 D]."""
    pooled: NDArray[np.float32] = torch.cat([embeddings.mean(dim=0), embeddings.amax(dim=0)]).cpu().numpy()
    return pooled


def mean_prediction(predictions: Sequence[BagPrediction]) -> BagPrediction:
    """The mean of several predictions of one bag: of ensemble members, or of views."""
    probabilities, weights, slices = zip(*predictions, strict=True)
    return BagPrediction(float(np.mean(probabilities)), np.mean(weights, axis=0), np.mean(slices, axis=0))


def mean_predictions(members: Sequence[Predictions]) -> Predictions:
    """Likewise, of predictions of the same bags in the same order."""

    def mean(tables: Sequence[pd.DataFrame], columns: Sequence[str]) -> pd.DataFrame:
        return tables[0].assign(**{name: np.mean([table[name] for table in tables], axis=0) for name in columns})

    bags = mean([member.bags for member in members], ["probability"])
    return Predictions(bags, mean([member.slices for member in members], ["weight", *P_COLUMNS]))


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
    predicted at once; slices are read and embedded in the classifier's chunks, views that `features` lack as well.
    """
    cached_views = 0 if features is None else features.views
    lengths = store.bags.set_index("bag_id")["n_slices"][list(bag_ids)].tolist()
    neighbours = classifier.preprocessor.neighbours
    predictions: dict[str, BagPrediction] = {}
    classifier.to(device)  # not in inference mode: what is moved there cannot train
    with (
        evaluation_mode(classifier),
        torch.inference_mode(),
        classifier.folded() if cached_views < classifier.views else nullcontext(),
    ):
        for batch in inference_chunks(lengths, batch_size, most_slices(store, features, neighbours)):
            ids = [bag_ids[i] for i in batch]
            views = []
            for view in range(classifier.views):
                if features is not None and view < features.views:
                    rows = [features.rows(bag_id, view, None).to(device) for bag_id in ids]
                else:
                    volumes = ((store.voxels(bag_id), store.spacing_mm(bag_id)) for bag_id in ids)
                    rows = _embed(classifier, volumes, device, [lengths[i] for i in batch], view)
                views.append(_classify(classifier, rows))
            for bag_id, *of_views in zip(ids, *views, strict=True):
                predictions[bag_id] = mean_prediction(of_views)
    bags = pd.DataFrame({"bag_id": [*predictions], "probability": [each.probability for each in predictions.values()]})
    return Predictions(bags, _slice_table(predictions, store))


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
    view: int = 0,
) -> list[Tensor]:
    """What the feature cache would hold of bags in a view, float [S_i, K] each."""
    chunks = [classifier.prefix(images) for images in image_chunks(classifier, volumes, device, view)]
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


def _slice_table(predictions: Mapping[str, BagPrediction], store: Store) -> pd.DataFrame:
    p = np.concatenate([each.slice_probabilities for each in predictions.values()])
    lengths = [len(each.weights) for each in predictions.values()]
    return pd.DataFrame(
        {
            "bag_id": np.repeat(np.array([*predictions], object), lengths),
            "index": np.concatenate([np.arange(length) for length in lengths]),
            "z_mm": np.concatenate([store.z_mm(bag_id) for bag_id in predictions]),
            "label": np.concatenate([store.slice_labels(bag_id) for bag_id in predictions]),
            "weight": np.concatenate([each.weights for each in predictions.values()]),
            "p_non_nodule": p[:, NON_NODULE],
            "p_benign": p[:, BENIGN],
            "p_malignant": p[:, MALIGNANT],
        }
    )
