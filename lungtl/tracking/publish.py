"""What a run's folder holds, sent to its tracker (the branch `tracking` has the real one)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.runs.environment import ENVIRONMENT
from lungtl.runs.folder import BUNDLE, CONFIG, FIGURES, METRICS, PREDICTIONS, SLICES, SPLIT, VALIDATION, read_record
from lungtl.runs.naming import flatten

if TYPE_CHECKING:
    from lungtl.tracking.tracker import Tracker


def start(tracker: Tracker, folder: Path, resumed: bool = False) -> None:
    """Params, tags, config, split and environment of a run."""
    from omegaconf import OmegaConf

    record = read_record(folder)
    if not resumed:
        config: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
        config.pop("sweep")
        tracker.params(flatten(config))
        tracker.tags({**record["choices"], "lungtl.kind": "run", "lungtl.folder": str(folder), **{
            f"lungtl.{key}": str(value) for key, value in record.items()
            if "fingerprint" in key or key in ("store", "weights_source", "weights_sha256")
        }})  # fmt: skip
        tracker.artifacts(folder / SPLIT)
    tracker.artifacts(folder / CONFIG)  # a resumed run may have other settings
    tracker.artifacts(folder / ENVIRONMENT)


def results(tracker: Tracker, folder: Path) -> None:
    """Metrics, predictions, figures, bundle and checkpoints of a finished run."""
    from lungtl.evaluation.chosen import FILE
    from lungtl.evaluation.document import flat_metrics

    document = json.loads((folder / METRICS).read_text())
    training = document["training"]
    counted = {key: training[key] for key in ("trainable_parameters", "epochs", "best_epoch")}
    if training["val_auroc"] is not None:
        counted["best/val_auroc"] = training["val_auroc"]
    tracker.metrics(flat_metrics(document) | counted)
    for path in (METRICS, FILE, VALIDATION, PREDICTIONS, SLICES):
        tracker.artifacts(folder / path)
    for path in (FIGURES, BUNDLE, "checkpoints"):
        if (folder / path).is_dir():
            tracker.artifacts(folder / path, path)
