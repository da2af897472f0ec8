"""What the feature cache and the chunks save in training, on a small phantom in a temporary folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.measure import Row, compared, fastest

if TYPE_CHECKING:
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.store.reader import Store

SCANS = 12
CHUNKS = (8, 64)


def compare() -> list[Row]:
    """Measure everything on one phantom."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        store = _phantom(data_dir)
        return [*_frozen_epoch(store, data_dir), _chunking(store)]


def _phantom(data_dir: Path) -> Store:
    from lungtl.sources.phantom.source import PhantomSource
    from lungtl.store.writer import prepare

    return prepare(PhantomSource(str(data_dir / "phantom"), scans=SCANS), data_dir)


def _classifier(chunk: int | None) -> BagClassifier:
    from lungtl.config import WINDOWS
    from lungtl.data.windows import SlicePreprocessor
    from lungtl.models.aggregators.attention import Attention
    from lungtl.models.backbones.timm_backbone import TimmBackbone
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.models.slice_projection import SliceProjection

    backbone = TimmBackbone("tf_efficientnet_lite0.in1k", features="stages")
    windows = [WINDOWS[name] for name in ("lung", "mediastinal", "wide")]
    preprocessor = SlicePreprocessor(windows, False, backbone.input_size, None, backbone.mean, backbone.std)
    return BagClassifier(preprocessor, backbone, SliceProjection(backbone.dim, 128, 0.5), Attention(128), chunk).eval()


def _frozen_epoch(store: Store, data_dir: Path) -> list[Row]:
    """An epoch over cached features against one that embeds every slice."""
    import torch

    from lungtl.training.feature_cache import cached_features
    from lungtl.training.inference import predict_bags

    device = torch.device("cpu")
    classifier = _classifier(None)
    ids = list(store.bags["bag_id"])
    features = cached_features(classifier, store, data_dir, device, classifier.backbone.fingerprint())
    cached = fastest(lambda: predict_bags(classifier, store, ids, features, device))
    uncached = fastest(lambda: predict_bags(classifier, store, ids, None, device))
    return [compared("frozen epoch, cached features", cached, "the same, embedding every slice", uncached)]


def _chunking(store: Store) -> Row:
    """Slices that pass the backbone at once on a CPU."""
    import torch

    from lungtl.data.bags import read_frames

    voxels = store.voxels(str(store.bags["bag_id"][0]))
    frames = read_frames(voxels, np.resize(np.arange(len(voxels)), 64), False)
    seconds = []
    for chunk in CHUNKS:
        classifier = _classifier(chunk)
        with torch.inference_mode():
            seconds.append(fastest(lambda c=classifier: c.embed(frames)))  # type: ignore[misc]
    return compared(f"64 slices in chunks of {CHUNKS[0]}", seconds[0], f"in chunks of {CHUNKS[1]}", seconds[1])
