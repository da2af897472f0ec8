"""Folds of a made-up cohort, and the predictions of their models."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lungtl.data.splits import split_bags
from lungtl.evaluation.metrics import score
from lungtl.evaluation.pooling import Fold
from lungtl.settings.sections import SplitConfig


def cohort(n_patients: int, seed: int = 0) -> pd.DataFrame:
    """One to three bags a patient, patients positive by turns; unordered."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), random.integers(1, 4, n_patients))
    table = pd.DataFrame({
        "bag_id": [f"b{i:03d}" for i in range(len(patients))],
        "patient_id": [f"p{patient}" for patient in patients],
        "bag_label": (patients % 2).astype(np.int8),
        "split": pd.array([None] * len(patients), dtype="string"),
        "diameter_mm": 3 + patients % 2 + random.random(len(patients)),
    })  # fmt: skip
    return table.sample(frac=1, random_state=seed)


def fold(bags: pd.DataFrame, number: int, folds: int, seed: int = 0) -> Fold:
    """A fold whose model says (number + 1) / 10 of the first of its test bags, and ever less."""
    options = {"kind": "kfold", "val": 0.2, "test": 0.2, "folds": folds, "fold": number, "seed": seed}
    split = split_bags(bags, SplitConfig.model_validate(options))
    test = split[split["split"] == "test"]
    probabilities = (number + 1) / 10 - np.arange(len(test)) * 1e-4
    predictions = pd.DataFrame({"bag_id": test["bag_id"].to_numpy(), "probability": probabilities})
    metrics = score(test["label"], probabilities, test["patient_id"], resamples=0).metrics
    return Fold(number, split, predictions, {name: estimate.value for name, estimate in metrics.items()})
