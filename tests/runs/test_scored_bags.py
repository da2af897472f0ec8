"""Which bags `lungtl.evaluate` scores, and what it says of those that the model has seen."""

from __future__ import annotations

import copy
import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from lungtl.bundle import SEEN
from lungtl.data.splits import read_split, save_split, split_fingerprint, voxel_digests
from lungtl.data.store.reader import Store
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.formatting import headlines
from lungtl.evaluation.metrics import score
from lungtl.runs.folder import SPLIT, write_record
from lungtl.runs.model import Model
from lungtl.runs.scored_bags import _patients, choose_bags
from lungtl.runs.scored_model import bundle_features
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import sha256
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
    own = {"store_fingerprint": store.fingerprint, "split_fingerprint": split_fingerprint(read_split(tmp_path / SPLIT))}
    write_record(tmp_path, own)
    return tmp_path


def test_patients_that_trained_or_chose_are_counted_and_warned_of(
    run: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    seen = {}
    for wanted in ("test", "val", "all"):
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            chosen = choose_bags(run, store, wanted)
        seen[wanted] = (
            (chosen.training, chosen.validation),
            "trained the model" in caplog.text,
            "2 of the scored patients chose" in caplog.text,
        )
    assert seen == {
        "test": ((0, 0), False, False),
        "val": ((0, 2), False, True),
        "all": ((4, 2), True, True),
    }


def test_of_the_first_bundles_nobody_knows_who_trained_them(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bags, split, wanted, *counts = choose_bags(tmp_path, store, "auto")
    assert (len(bags), split, wanted, counts) == (8, None, "all", [0, None, None])
    assert "this bundle does not say what trained it" in caplog.text


def test_a_bundle_knows_its_voxels_under_any_id(store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    digests = voxel_digests(store.bags[["bag_id"]].assign(split=["train"] * 4 + ["val"] * 2 + ["test"] * 2), store.bags)
    assert [len(digests["train"]), len(digests["val"])] == [4, 2]
    (tmp_path / SEEN).write_text(json.dumps(digests))
    store = copy.copy(store)
    store.bags = store.bags.assign(bag_id=[f"x{i}" for i in range(8)], patient_id=[f"q{i}" for i in range(8)])
    with caplog.at_level(logging.INFO):
        chosen = choose_bags(tmp_path, store, "auto")
    assert chosen.bags["bag_id"].tolist() == ["x6", "x7"]
    assert (chosen.left_out, chosen.training, chosen.validation) == (6, 0, 0)
    assert "6 patients are left out, since they trained the model" in caplog.text
    assert choose_bags(tmp_path, store, "all").training == 4


def test_a_series_is_known_by_its_uid_under_another_patient_id(store: Store, run: Path) -> None:
    uids = [f"1.2.840.99.{i}" for i in range(8)]
    table = pd.read_csv(run / SPLIT).assign(bag_id=uids)
    save_split(table, run / SPLIT)
    write_record(run, {"store_fingerprint": "another", "split_fingerprint": split_fingerprint(table)})
    store = copy.copy(store)
    store.bags = store.bags.assign(bag_id=uids, patient_id=[f"q{i}" for i in range(8)])
    assert choose_bags(run, store, "auto").bags["bag_id"].tolist() == uids[6:]


def test_on_its_own_dataset_auto_is_the_test_split(run: Path, store: Store) -> None:
    bags, _, wanted, left_out, *_ = choose_bags(run, store, "auto")
    assert (bags["bag_id"].tolist(), wanted, left_out) == (["b06", "b07"], "test", 0)


def test_a_split_that_was_altered_is_refused(run: Path, store: Store) -> None:
    table = pd.read_csv(run / SPLIT).assign(split=["train"] * 5 + ["val"] * 1 + ["test"] * 2)
    save_split(table, run / SPLIT)
    with pytest.raises(LungtlError, match=r"split.csv was altered"):
        choose_bags(run, store, "auto")
    write_record(run, {"store_fingerprint": store.fingerprint, "split_sha256": sha256(run / SPLIT)})
    assert len(choose_bags(run, store, "auto").bags) == 2
    (run / SPLIT).write_text((run / SPLIT).read_text().replace("5.0", "6.0"))  # what the split's fingerprint ignores
    with pytest.raises(LungtlError, match=r"split.csv was altered"):
        choose_bags(run, store, "auto")


@pytest.fixture
def elsewhere(run: Path) -> Path:
    """The run as if its dataset had been another one with some of the patient ids in common."""
    write_record(run, {"store_fingerprint": "another", "split_fingerprint": split_fingerprint(read_split(run / SPLIT))})
    return run


def test_on_another_dataset_equal_patient_ids_are_a_question(
    elsewhere: Path, store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        bags, _, wanted, *counts = choose_bags(elsewhere, store, "auto")
    assert (bags["bag_id"].tolist(), wanted, counts) == (["b06", "b07"], "all", [6, 0, 0])
    (line,) = caplog.messages
    assert "6 patients are left out, since patients who trained the model" in line
    assert "have the same ids; if these are other people, score them with split=all" in line


def test_all_is_all_and_says_what_that_means(elsewhere: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    chosen = choose_bags(elsewhere, store, "all")
    assert (len(chosen.bags), chosen.left_out, chosen.training, chosen.validation) == (8, 0, 4, 2)
    assert "4 of the scored patients have the id of one who trained the model; if they are the same" in caplog.text
    assert "2 of the scored patients have the id of one who chose" in caplog.text


def test_where_auto_leaves_nobody_it_says_so(elsewhere: Path, store: Store) -> None:
    table = pd.read_csv(elsewhere / SPLIT).assign(split=["train"] * 5 + ["val"] * 3)
    save_split(table, elsewhere / SPLIT)
    write_record(elsewhere, {"store_fingerprint": "another", "split_fingerprint": split_fingerprint(table)})
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
    bags = pd.DataFrame({"patient_id": ["a", "a", "b"], "side": None})
    split = pd.DataFrame({"patient_id": ["a", "a", "c"], "split": ["val", "val", "train"]})
    assert (_patients(bags, split, "val"), _patients(bags, split, "train")) == ({"a"}, set())
