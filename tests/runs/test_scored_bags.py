"""Which bags `lungtl.evaluate` scores, and what it says of those that the model has seen."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from lungtl.data.splits import save_split
from lungtl.data.store.reader import Store
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.formatting import headlines
from lungtl.evaluation.metrics import score
from lungtl.runs.folder import SPLIT, write_record
from lungtl.runs.model import Model
from lungtl.runs.scored_bags import choose_bags, shared_patients
from lungtl.runs.scored_model import bundle_features
from lungtl.settings.errors import UsageError
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
            bags, split, _, _ = choose_bags(run, store, wanted)
        counts = tuple(shared_patients(bags, split, side) for side in ("train", "val"))
        seen[wanted] = (
            counts,
            "trained the model" in caplog.text,
            "2 of the scored patients chose" in caplog.text,
        )
    assert seen == {
        "test": ((0, 0), False, False),
        "val": ((0, 2), False, True),
        "all": ((4, 2), True, True),
    }


def test_of_a_bundle_alone_nobody_knows_who_trained_it(store: Store, tmp_path: Path) -> None:
    bags, split, wanted, left_out = choose_bags(tmp_path, store, "auto")
    assert (len(bags), split, wanted, left_out) == (8, None, "all", 0)
    assert shared_patients(bags, split, "val") is None


def test_on_its_own_dataset_auto_is_the_test_split(run: Path, store: Store) -> None:
    bags, _, wanted, left_out = choose_bags(run, store, "auto")
    assert (bags["bag_id"].tolist(), wanted, left_out) == (["b06", "b07"], "test", 0)


@pytest.fixture
def elsewhere(run: Path) -> Path:
    """The run as if its dataset had been another one with some of the patients in common."""
    write_record(run, {"store_fingerprint": "another"})
    return run


def test_on_another_dataset_auto_leaves_out_who_trained_the_model_or_chose_its_epoch(
    elsewhere: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bags, split, wanted, left_out = choose_bags(elsewhere, store, "auto")
    assert (bags["bag_id"].tolist(), wanted, left_out) == (["b06", "b07"], "all", 6)
    assert [shared_patients(bags, split, side) for side in ("train", "val", "test")] == [0, 0, 2]
    (line,) = caplog.messages
    assert "not trained on this dataset; 6 patients who trained the model or chose its epoch are omitted" in line


def test_all_is_all_and_says_what_that_means(elsewhere: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    bags, _, _, left_out = choose_bags(elsewhere, store, "all")
    assert (len(bags), left_out) == (8, 0)
    assert "4 of the scored patients trained the model" in caplog.text
    assert "2 of the scored patients chose" in caplog.text


def test_where_auto_leaves_nobody_it_says_so(elsewhere: Path, store: Store) -> None:
    table = pd.read_csv(elsewhere / SPLIT)
    save_split(table.assign(split=["train"] * 5 + ["val"] * 3), elsewhere / SPLIT)
    with pytest.raises(
        UsageError, match=r"all 8 patients of .* trained the model .*; choose another dataset, or split=all"
    ):
        choose_bags(elsewhere, store, "auto")


def test_the_summary_says_who_is_left_out() -> None:
    table = score([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6], list("abcd"), resamples=0)
    for left_out, said in ((6, True), (0, False)):
        lines = headlines(evaluation_document(split="all", bag=table, patients_left_out=left_out))
        assert ("omitted: 6 patients who trained the model or chose its epoch" in lines) is said


@pytest.mark.parametrize(
    ("provenance", "dtype"), [({"cache_precision": "float16"}, torch.float16), ({}, torch.float32)]
)
def test_features_are_kept_as_training_kept_them(
    store: Store, tmp_path: Path, provenance: dict[str, Any], dtype: torch.dtype
) -> None:
    config: Any = SimpleNamespace(cache=SimpleNamespace(enabled=True, max_gb=1), data_dir=tmp_path)
    model = Model(tmp_path, tiny_classifier(), {"provenance": provenance}, None)
    features = bundle_features(store, model, model.classifier, "w", config)
    assert features is not None
    assert features.rows("b00", 0, None).dtype is dtype


def test_patients_are_counted_not_bags() -> None:
    bags = pd.DataFrame({"patient_id": ["a", "a", "b"]})
    split = pd.DataFrame({"patient_id": ["a", "a", "c"], "split": ["val", "val", "train"]})
    assert (shared_patients(bags, split, "val"), shared_patients(bags, split, "train")) == (1, 0)
