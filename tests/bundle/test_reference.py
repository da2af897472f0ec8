"""Distances to the training bags in embedding space."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from lungtl.bundle import load_reference
from lungtl.bundle.files import REFERENCE
from lungtl.bundle.reference import NEIGHBOURS, fit_reference
from lungtl.settings.errors import LungtlError


def bags(n: int, seed: int, shift: float = 0.0) -> list[np.ndarray]:
    """Embeddings of 6 components of different size; the last one never varies."""
    random = np.random.default_rng(seed)
    values = random.normal(shift, 1, (n, 6)) * [1, 10, 0.1, 1, 1, 0] + 4
    return list(values.astype(np.float32))


def test_distances_are_those_of_scikit_learn_on_standardised_components() -> None:
    training, validation, others = bags(40, 0), bags(20, 1), bags(3, 2)
    reference = fit_reference(training, validation)
    assert reference is not None
    known = np.stack(training)[:, :5].astype(np.float64)
    scale = known.std(axis=0)
    nearest = NearestNeighbors(n_neighbors=NEIGHBOURS).fit(known / scale)
    for other in others:
        distances, _ = nearest.kneighbors((other[:5] / scale)[None])
        assert reference.distance(other) == pytest.approx(distances.mean() / np.sqrt(5), rel=1e-4)
    assert reference.scale[5] == 0


def test_bags_like_the_training_bags_are_familiar_and_others_are_not() -> None:
    reference = fit_reference(bags(60, 0), bags(30, 1))
    assert reference is not None
    assert max(map(reference.ratio, bags(200, 2))) < 1.2
    assert np.mean([reference.ratio(bag) > 1 for bag in bags(200, 2)]) < 0.02
    assert min(map(reference.ratio, bags(20, 3, shift=6.0))) > 1.5


def test_the_threshold_is_never_below_the_validation_bags_99_percent() -> None:
    validation = bags(300, 1)
    reference = fit_reference(bags(60, 0), validation)
    assert reference is not None
    assert np.mean([reference.ratio(bag) <= 1 for bag in validation]) >= 0.99


def test_with_few_bags_nothing_is_known() -> None:
    assert fit_reference(bags(4, 0), bags(30, 1)) is None
    assert fit_reference(bags(30, 0), bags(4, 1)) is None


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    reference = fit_reference(bags(20, 0), bags(9, 1))
    assert reference is not None
    reference.save(tmp_path / REFERENCE)
    loaded = load_reference(tmp_path)
    assert loaded is not None
    assert loaded.ratio(bags(1, 5)[0]) == reference.ratio(bags(1, 5)[0])
    assert loaded.n_validation == 9
    (tmp_path / REFERENCE).write_bytes(b"\0" * 40)
    with pytest.raises(LungtlError, match="damaged"):
        load_reference(tmp_path)
    assert load_reference(tmp_path / "elsewhere") is None
