"""A run's folder without training: its files, written in the order of a real run while a tracker records them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lungtl.runs.epochs import append_epoch
from lungtl.runs.folder import write_record
from lungtl.settings.sections import TrackingConfig
from lungtl.tracking import publish
from lungtl.tracking.mlflow_run import Tracker
from lungtl.tracking.tracker import MlflowTracker, tracked

EPOCHS = 3
PARTS = {"dataset": "phantom", "backbone": "resnet18", "freezing": "frozen", "aggregator": "max", "loss": "bag_only"}


def config(uri: str | None = None) -> TrackingConfig:
    return TrackingConfig(enabled=True, uri=uri, experiment="tests")


def run_in(folder: Path, data_dir: Path, uri: str | None = None, run_id: str | None = None) -> MlflowTracker:
    """A whole run."""
    folder.mkdir(exist_ok=True)
    tracker = MlflowTracker(config(uri), data_dir, folder.name, folder, publish.run, run_id)
    with tracked(tracker):
        begin(tracker, folder)
        train(tracker, folder)
        finish(tracker, folder)
    return tracker


def begin(tracker: Tracker, folder: Path) -> None:
    """Everything before the first epoch."""
    (folder / "split.csv").write_text("bag_id,split\n")
    (folder / "environment.json").write_text("{}")
    optimizer, loss = "  lr: 1.0e-05\n  _target_: torch.optim.AdamW", "  _target_: mine.Loss"
    settings = f"seed: 3\noptimizer:\n{optimizer}\nloss:\n{loss}\nname: null\nsweep:\n  retry: false\n"
    (folder / "config.yaml").write_text(settings)
    record = {"name": "a run", "mlflow_run_id": tracker.run_id, "choices": PARTS, "store": "phantom-1",
              "store_fingerprint": "aa", "split_fingerprint": "bb", "weights_source": "hub", "seed": 3,
              "weights_split_fingerprint": "", "overrides": ["loss._target_=mine.Loss"]}  # fmt: skip
    write_record(folder, record)
    publish.start(tracker, folder)


def train(tracker: Tracker, folder: Path, first: int = 0, last: int = EPOCHS) -> None:
    """Epochs from `first` to before `last`."""
    for epoch in range(first, last):
        metrics = {"lr": 0.1, "val/loss": 1 / (epoch + 3), "val/auroc": float("nan")}
        append_epoch(folder, epoch, metrics)
        tracker.epoch(metrics, epoch)


def finish(tracker: Tracker, folder: Path) -> None:
    """Scores and result files."""
    write_metrics(folder, training={"trainable_parameters": 7, "epochs": 3, "best_epoch": 2, "val_auroc": 0.75})
    for name in ("calibration.json", "validation.csv", "predictions.csv", "slices.csv", "figures/roc.png",
                 "bundle/config.json", "checkpoints/best.ckpt"):  # fmt: skip
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(name)
    publish.results(tracker, folder)


def write_metrics(folder: Path, **context: Any) -> None:
    """metrics.json with two metrics, and the keys of the command that wrote it."""
    auroc = {"value": 0.875, "low": 0.5, "high": 1.0, "undefined": None}
    undefined = {"value": None, "low": None, "high": None, "undefined": "unknown"}
    metrics = {"auroc": auroc, "brier": {**undefined, "value": 0.25}}
    metrics |= dict.fromkeys(("sensitivity", "specificity", "calibration_error"), undefined)
    table = {"n": 8, "n_patients": 8, "n_positive": 4, "threshold": 0.5, "metrics": metrics, "auroc_delong": None}
    document = {"schema": 2, "split": "test", "bag": table, "calibrated": {}, "slice": None, "controls": {},
                "gains": {}, "chosen": None, "operating_points": {}, "subgroups": [], "localisation": None,
                "with_covariates": None}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(document | context))


def recorded(client: Any, run_id: str) -> dict[str, Any]:
    """Everything that MLflow has of a run, except what differs between two equal ones: folder, name and times."""
    run = client.get_run(run_id)
    own = ("mlflow.runName", "lungtl.folder")
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": {key: value.replace(run_id, "RUN") for key, value in run.data.tags.items() if key not in own},
        "metrics": {key: [(m.step, str(m.value)) for m in client.get_metric_history(run_id, key)]
                    for key in run.data.metrics},
        "artifacts": sorted(_artifacts(client, run_id, None)),
    }  # fmt: skip


def _artifacts(client: Any, run_id: str, under: str | None) -> list[str]:
    paths: list[str] = []
    for artifact in client.list_artifacts(run_id, under):
        paths += _artifacts(client, run_id, artifact.path) if artifact.is_dir else [artifact.path]
    return paths
