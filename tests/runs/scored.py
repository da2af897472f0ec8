"""Networks that were never trained, scored in this process on a tiny store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lungtl.bundle import load_bundle
from lungtl.data.bags import Features
from lungtl.data.store.reader import Store
from lungtl.runs.scoring import export_bundle, score_run
from lungtl.runs.training import Trained
from lungtl.settings.schema import TrainConfig
from lungtl.tracking import publish
from lungtl.tracking.mlflow_run import Tracker
from lungtl.training.build import build_classifier
from lungtl.training.feature_cache import cached_features
from lungtl.training.fit import seed_everything
from lungtl.training.losses import BagAndSliceLoss

CPU = torch.device("cpu")


def drawn_or_not(config: TrainConfig, figures: bool) -> TrainConfig:
    return config.model_copy(update={"evaluation": config.evaluation.model_copy(update={"figures": figures})})


def split_of(store: Store) -> pd.DataFrame:
    """Eight bags train, four validate, eight are tested; the diameter tells half of the labels."""
    labels = store.bags["bag_label"].astype(int)
    table = store.bags[["bag_id", "patient_id"]].assign(label=labels, diameter_mm=4.0 + labels * (labels.index % 3))
    return table.assign(split=["train"] * 8 + ["val"] * 4 + ["test"] * 8)


class Recorded(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.numbers: dict[str, float] = {}
        self.files: set[str] = set()

    def metrics(self, values: Any, step: int = 0) -> None:
        self.numbers |= values

    def artifacts(self, path: Path, under: str | None = None) -> None:
        self.files.add(path.name)


def finished(
    config: TrainConfig,
    store: Store,
    split: pd.DataFrame,
    name: str,
    cached: bool = True,
    loss: BagAndSliceLoss | None = None,
) -> tuple[dict[str, Any], Path, Recorded]:
    """The results of a network that was never trained."""
    seed_everything(0)
    classifier = build_classifier(config, store.value_range)
    weights = classifier.backbone.fingerprint()
    features = cached_features(classifier, store, config.data_dir, CPU, weights) if cached else None
    record: dict[str, Any] = {"name": name, "mlflow_run_id": None}
    record |= {"store": store.name, "store_fingerprint": store.fingerprint}
    choices = {"dataset": "toy", "aggregator": "attention"}
    folder = config.data_dir / name
    folder.mkdir()
    loss = loss or BagAndSliceLoss()
    fitted = {"epochs": 1, "best_epoch": 0, "seconds": 2.5, "trainable_parameters": 7}
    record |= {"choices": choices, "overrides": [], "split_fingerprint": "s", "weights_source": "none"}
    trained = Trained(classifier, loss, features, CPU, fitted)
    scored, document = score_run(config, store, split, folder, trained, record)
    export_bundle(folder, config, store, split, scored, document, record)
    tracker = Recorded()
    publish.results(tracker, folder)
    return document, folder, tracker


def scored_features(store: Store, folder: Path) -> Features:
    """The features that the loaded bundle of a run has of a store."""
    classifier, _ = load_bundle(folder / "bundle")
    weights = classifier.backbone.fingerprint()
    features = cached_features(classifier, store, folder.parent, CPU, weights)
    assert features is not None
    return features
