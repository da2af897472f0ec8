"""Predictions like those of a small test split, the same at every call."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Cohort:
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    patient_ids: list[str]
    diameter_mm: NDArray[np.float64]


def cohort(n: int = 60, patients: int = 50, seed: int = 3) -> Cohort:
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(np.int64)
    probabilities = 1 / (1 + np.exp(-rng.normal(-0.6 + 1.6 * labels, 1.0)))
    diameter = np.exp(rng.normal(2 + 0.7 * labels, 0.35))
    return Cohort(labels, probabilities, [f"P{i % patients:03d}" for i in range(n)], diameter)
