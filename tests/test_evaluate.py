"""Which bags `lungtl.evaluate` scores, and what it says of those that the model has seen."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from lungtl import evaluate
from lungtl.data.splits import save_split
from lungtl.evaluate import choose_bags, shared_patients
from lungtl.runs import SPLIT, write_record
from lungtl.store.reader import Store
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [2] * 8)


@pytest.fixture
def run(store: Store, tmp_path: Path) -> Path:
    """A run's folder: four bags trained, two validated, two were tested."""
    table = store.bags[["bag_id", "patient_id"]].assign(label=[0, 1] * 4, diameter_mm=5.0)
    save_split(table.assign(split=["train"] * 4 + ["val"] * 2 + ["test"] * 2), tmp_path / SPLIT)
    write_record(tmp_path, {"store_fingerprint": store.fingerprint})
    return tmp_path


def test_patients_that_trained_or_chose_are_counted_and_warned_of(
    run: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    seen = {}
    for wanted in ("test", "val", "all"):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            bags, split, _ = choose_bags(run, store, wanted)
        counts = tuple(shared_patients(bags, split, side) for side in ("train", "val"))
        seen[wanted] = (
            counts,
            "trained the model" in caplog.text,
            "2 of the patients scored here chose" in caplog.text,
        )
    assert seen == {
        "test": ((0, 0), False, False),
        "val": ((0, 2), False, True),
        "all": ((4, 2), True, True),
    }


def test_of_a_bundle_alone_nobody_knows_who_trained_it(store: Store, tmp_path: Path) -> None:
    bags, split, wanted = choose_bags(tmp_path, store, "auto")
    assert (len(bags), split, wanted) == (8, None, "all")
    assert shared_patients(bags, split, "val") is None


@pytest.mark.parametrize(
    ("provenance", "dtype"), [({"cache_precision": "float16"}, torch.float16), ({}, torch.float32)]
)
def test_features_are_kept_as_training_kept_them(
    store: Store, tmp_path: Path, provenance: dict[str, Any], dtype: torch.dtype
) -> None:
    config: Any = SimpleNamespace(cache=SimpleNamespace(enabled=True, max_gb=1), data_dir=tmp_path)
    bundle = {"provenance": provenance}
    features = evaluate._features(config, tiny_classifier(), "w", bundle, store, torch.device("cpu"))
    assert features is not None
    assert features.rows("b00", 0, None).dtype is dtype


def test_patients_are_counted_not_bags() -> None:
    bags = pd.DataFrame({"patient_id": ["a", "a", "b"]})
    split = pd.DataFrame({"patient_id": ["a", "a", "c"], "split": ["val", "val", "train"]})
    assert (shared_patients(bags, split, "val"), shared_patients(bags, split, "train")) == (1, 0)
