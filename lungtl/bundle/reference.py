"""Where a model's training bags are in its backbone's embedding space: the bundle's `reference.safetensors`.

The distance of a bag is that to its nearest training bags (Sun et al., ICML 2022), each bag being the mean of its
slices' embeddings, standardised by the training bags. A bag is unfamiliar if it is farther away than validation bags.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit  # of Student's t

MOST_BAGS = 128  # of the training that are kept
NEIGHBOURS = 5
FEWEST = 5  # training and validation bags, to know what is far
QUANTILE = 0.99  # of the validation bags' distances
CERTAINTY = 0.999  # with which the next bag like them is nearer, if their logarithms are normal
ROUNDING = 1e-6  # a component that varies less between the training bags, relative to its size, says nothing

Floats = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Reference:
    """Embeddings of training bags and the distance from which another bag is unfamiliar."""

    embeddings: Floats  # float32 [n, D], standardised
    mean: Floats  # float32 [D]
    scale: Floats  # float32 [D]; a component of scale 0 is not compared
    threshold: float
    n_validation: int  # bags that chose it

    def ratio(self, embedding: NDArray[np.floating]) -> float:
        """The distance relative to the threshold: above 1 the bag is unfamiliar."""
        return self.distance(embedding) / self.threshold

    def distance(self, embedding: NDArray[np.floating]) -> float:
        """Root mean square distance per component to the nearest training bags, of a bag's mean embedding [D]."""
        return float(self._distances(embedding[None])[0])

    def _distances(self, embeddings: NDArray[np.floating]) -> NDArray[np.float64]:
        z = standardised(embeddings, self.mean, self.scale)
        squares = (z**2).sum(1)[:, None] + (self.embeddings.astype(np.float64) ** 2).sum(1) - 2 * z @ self.embeddings.T
        nearest = np.sort(squares.clip(0), axis=1)[:, :NEIGHBOURS]
        return np.asarray(np.sqrt(nearest / max(1, int((self.scale > 0).sum()))).mean(axis=1))

    def save(self, path: Path) -> None:
        """Write a safetensors file."""
        from safetensors.numpy import save_file

        tensors = {"embeddings": self.embeddings, "mean": self.mean, "scale": self.scale}
        save_file(tensors, path, {"threshold": repr(self.threshold), "n_validation": str(self.n_validation)})

    @classmethod
    def load(cls, path: Path) -> Reference:
        """Read what `save` wrote; raises LookupError, TypeError, ValueError or SafetensorError on anything else."""
        from safetensors import safe_open

        with safe_open(path, "np") as file:
            embeddings, mean, scale = (file.get_tensor(name) for name in ("embeddings", "mean", "scale"))
            facts = file.metadata()
        if embeddings.ndim != 2 or not embeddings.shape[1:] == mean.shape == scale.shape:
            raise ValueError(f"{path.name}: shapes {embeddings.shape}, {mean.shape}, {scale.shape}")
        return cls(embeddings, mean, scale, float(facts["threshold"]), int(facts["n_validation"]))


def fit_reference(training: Sequence[Floats], validation: Sequence[Floats]) -> Reference | None:
    """Keep the training bags, and choose the threshold on validation bags: mean embeddings float32 [D] each.

    The threshold is the 99 % quantile of the validation bags' distances or, since of few bags that is merely the
    largest, the upper 99.9 % prediction limit of a log-normal distribution for one more bag, whichever is higher.

    Returns:
        None with fewer than `FEWEST` bags in either.
    """
    if min(len(training), len(validation)) < FEWEST:
        return None
    known = np.stack(training)
    mean, scale = known.mean(axis=0), known.std(axis=0)
    scale[scale <= ROUNDING * np.abs(known).max(axis=0)] = 0
    found = Reference(standardised(known, mean, scale).astype(np.float32), mean, scale, np.inf, len(validation))
    distances = found._distances(np.stack(validation))
    logs = np.log(distances.clip(np.finfo(np.float32).tiny))
    n = len(logs)
    limit = logs.mean() + stdtrit(n - 1, CERTAINTY) * logs.std(ddof=1) * np.sqrt(1 + 1 / n)
    threshold = max(float(np.quantile(distances, QUANTILE)), float(np.exp(limit)))
    return Reference(found.embeddings, mean, scale, threshold, len(validation))


def standardised(embeddings: NDArray[np.floating], mean: Floats, scale: Floats) -> NDArray[np.float64]:
    """Float64 [n, D]; 0 where the scale is 0."""
    return np.asarray((embeddings - mean.astype(np.float64)) / np.where(scale > 0, scale, np.inf))
