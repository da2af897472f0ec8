"""Tiny bundles and the command on tiny series, in this process."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from lungtl.bundle import save_bundle
from lungtl.evaluation.chosen import Chosen, choose
from lungtl.evaluation.covariates import Regression
from lungtl.models.aggregators.gated_attention import GatedAttention
from lungtl.predict.command import predict_all
from lungtl.predict.outputs import Outputs
from lungtl.settings.schema import PredictConfig
from lungtl.settings.sections import TrackingConfig
from tests.dicom_files import UID, write_series
from tests.models.tiny import WIDTH, tiny_classifier

GATED = {"_target_": "lungtl.models.aggregators.gated_attention.GatedAttention", "hidden": 5}
FACTS = {"name": "tiny", "mlflow_run_id": None, "store": "toy", "store_fingerprint": "f", "value_range": None,
         "crop": "none"}  # fmt: skip
CREATED = "2026-01-02T03:04:05+0000"
SIZE = 48
Z = tuple(2.5 * k for k in range(7))


def bundle(
    folder: Path, seed: int = 0, covariates: Regression | None = None, chosen: Chosen | None = None, **facts: Any
) -> Path:
    torch.manual_seed(seed)  # an unlucky draw has an empty heatmap
    classifier = tiny_classifier(seed, GatedAttention(WIDTH, 5))
    provenance = {**FACTS, **facts}
    save_bundle(classifier, GATED, folder, provenance, "# card\n", chosen=chosen, covariates=covariates)
    return folder


def thresholds() -> Chosen:
    """Of validation cases that a model ranks without error: everything is positive from 0.2 on."""
    import pandas as pd

    p = [0.05, 0.1, 0.1, 0.15, 0.25, 0.9, 0.95, 0.99]
    table = pd.DataFrame({"patient_id": list("abcdefgh"), "label": [0] * 4 + [1] * 4, "probability": p})
    return choose(table, "platt")


def chest(seed: int = 0, n: int = len(Z)) -> NDArray[np.int16]:
    """Stored values of noise like soft tissue, with a bright corner at the first row and column of the last slice."""
    hu = np.random.default_rng(seed).normal(-500, 200, (n, SIZE, SIZE))
    hu[-1, :8, :8] = 400
    return (hu + 1024).clip(0).astype(np.int16)


def series(folder: Path, number: int = 0, **tags: Any) -> str:
    """Write one series; returns its UID."""
    uid = f"{UID}.{number}"
    write_series(folder, Z, chest(number), uid=uid, edit=lambda k, d: setattr(d, "InstanceNumber", 100 - k), **tags)
    return uid


def predict(model: Path | str, scans: Path, output: Path, **options: Any) -> Outputs:
    tracking = TrackingConfig(enabled=False, uri=None, experiment="e")
    config = PredictConfig(
        data_dir=output.parent, model=str(model), trust=None, input=scans, output=output,
        tracking=tracking,
        **{"points": None, "dicom_out": False, "max_gap_mm": 10.0, "max_gb": 2.0, "follow_links": False,
           "accelerator": "cpu", **options},
    )  # fmt: skip
    output.mkdir(exist_ok=True)
    return predict_all(config, CREATED)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
