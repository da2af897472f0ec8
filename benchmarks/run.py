"""`make bench`: what lungtl's own choices cost or save, as ratios between two things measured in one run.

Writes benchmarks/results.csv and prints it. Needs no data: it works on a small phantom in a temporary folder.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.store.reader import Store

REPEATS = 3
SCANS = 12
CHUNKS = (8, 64)


def main() -> None:
    """Measure everything on one phantom."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        store = _phantom(data_dir)
        rows = [_decode(data_dir), *_frozen_epoch(store, data_dir), _chunking(store)]
    path = Path(__file__).parent / "results.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=["what", "seconds", "against", "against_seconds", "ratio"])
        writer.writeheader()
        writer.writerows(rows)
    print(path.read_text())


def fastest(work: Callable[[], object]) -> float:
    """Seconds of the fastest of a few repeats: the one least disturbed."""
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def compared(what: str, seconds: float, against: str, against_seconds: float) -> dict[str, str]:
    """A row: ratio > 1 means that `what` is that many times faster."""
    return {
        "what": what, "seconds": f"{seconds:.3f}", "against": against, "against_seconds": f"{against_seconds:.3f}",
        "ratio": f"{against_seconds / seconds:.2f}",
    }  # fmt: skip


def _phantom(data_dir: Path) -> Store:
    from lungtl.sources.phantom.source import PhantomSource
    from lungtl.store.writer import prepare

    return prepare(PhantomSource(str(data_dir / "phantom"), scans=SCANS), data_dir)


def _decode(data_dir: Path) -> dict[str, str]:
    """A folder of DICOM to 1 mm HU volumes, against decoding the same files with pydicom and nothing else."""
    import pydicom

    from lungtl.sources.ct.series import find_series
    from lungtl.sources.ct.volume import read_volume, resample_z

    files = sorted(data_dir.glob("phantom/**/*.dcm"))
    ours = fastest(lambda: [resample_z(read_volume(s)) for s in find_series(data_dir / "phantom")[0]])
    bare = fastest(lambda: [pydicom.dcmread(file).pixel_array for file in files])
    return compared("DICOM folder to 1 mm HU volumes", ours, "bare pydicom decode of the same files", bare)


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


def _frozen_epoch(store: Store, data_dir: Path) -> list[dict[str, str]]:
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


def _chunking(store: Store) -> dict[str, str]:
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


if __name__ == "__main__":
    main()
