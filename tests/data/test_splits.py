from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lungtl.data.splits import EXTRA, UNUSED, check_split, read_split, save_split, split_bags, split_fingerprint
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.sections import SplitConfig


def config(**changes: Any) -> SplitConfig:
    base = {"kind": "holdout", "val": 0.2, "test": 0.25, "folds": 5, "fold": 0, "seed": 0}
    return SplitConfig.model_validate(base | changes)


def table(labels: list[int], patients: list[int] | None = None, splits: list[str | None] | None = None) -> pd.DataFrame:
    """A table of bags; by default one per patient."""
    n = len(labels)
    return pd.DataFrame({
        "bag_id": [f"b{i:03d}" for i in reversed(range(n))],
        "patient_id": [f"p{p}" for p in (patients or range(n))],
        "bag_label": np.array(labels, dtype=np.int8),
        "split": pd.array(splits or [None] * n, dtype="string"),
        "diameter_mm": np.linspace(1, 9, n),
    })  # fmt: skip


@st.composite
def cohorts(draw: st.DrawFn) -> pd.DataFrame:
    """At least 12 patients of either class with one to three bags each; some bags have no label."""
    labels, patients = [], []
    for patient in range(draw(st.integers(24, 40))):
        for bag in range(draw(st.integers(1, 3))):
            positive = patient % 2 and (bag == 0 or draw(st.booleans()))
            unknown = bag > 0 and draw(st.integers(0, 4)) == 0
            labels.append(-1 if unknown else int(positive))
            patients.append(patient)
    return table(labels, patients).sample(frac=1, random_state=draw(st.integers(0, 9)))


@settings(max_examples=40, deadline=None)
@given(cohorts(), st.sampled_from(["holdout", "kfold"]), st.integers(0, 5), st.integers(0, 4))
def test_invariants_of_every_split(bags: pd.DataFrame, kind: str, seed: int, fold: int) -> None:
    settings_ = config(kind=kind, seed=seed, fold=fold if kind == "kfold" else 0)
    split = split_bags(bags, settings_)
    labelled = bags[bags["bag_label"] != -1].sort_values("bag_id")
    assert split["bag_id"].tolist() == labelled["bag_id"].tolist()  # each once, none without a label
    assert split["label"].tolist() == labelled["bag_label"].tolist()
    assert split["patient_id"].tolist() == labelled["patient_id"].tolist()
    assert split["diameter_mm"].tolist() == labelled["diameter_mm"].tolist()
    assert (split.groupby("patient_id")["split"].nunique() == 1).all()
    positive = split.groupby("split")["label"].max()
    negative = split.groupby("split")["label"].min()
    assert positive.to_dict() == {"train": 1, "val": 1, "test": 1}
    assert negative.to_dict() == {"train": 0, "val": 0, "test": 0}
    pd.testing.assert_frame_equal(split, split_bags(bags, settings_))


@settings(max_examples=15, deadline=None)
@given(cohorts(), st.integers(3, 6))
def test_folds_test_and_validate_every_patient_exactly_once(bags: pd.DataFrame, folds: int) -> None:
    drawn = [split_bags(bags, config(kind="kfold", folds=folds, fold=fold)) for fold in range(folds)]
    for side in ("test", "val"):
        seen = [p for split in drawn for p in split.loc[split["split"] == side, "patient_id"].unique()]
        assert sorted(seen) == sorted(drawn[0]["patient_id"].unique()), side
    for current, after in zip(drawn, drawn[1:] + drawn[:1], strict=True):  # fold k + 1 validates
        assert set(current["bag_id"][current["split"] == "val"]) == set(after["bag_id"][after["split"] == "test"])


def test_the_number_of_folds_does_not_affect_other_kinds() -> None:
    bags = table([0, 1] * 20)
    pd.testing.assert_frame_equal(split_bags(bags, config(folds=2)), split_bags(bags, config()))


@pytest.mark.parametrize("kind", ["holdout", "source"])
def test_a_fold_without_kfold_is_a_usage_error(kind: str) -> None:
    with pytest.raises(UsageError, match=rf"split\.fold=1: split\.kind={kind} has no folds; .* split\.kind=kfold"):
        config(kind=kind, fold=1)


def test_two_folds_leave_no_training_data() -> None:
    with pytest.raises(UsageError, match=r"split\.folds=2: .*give at least 3"):
        config(kind="kfold", folds=2)


def test_fractions_and_classes_are_as_configured() -> None:
    split = split_bags(table([1, 0, 0, 0] * 50), config(val=0.2, test=0.25))
    counts = split.groupby("split")["label"].agg(["size", "sum"])
    assert counts["size"].to_dict() == {"test": 50, "val": 40, "train": 110}
    for name, expected in {"test": 12.5, "val": 10, "train": 27.5}.items():
        assert abs(counts["sum"][name] - expected) < 1


def test_a_patient_counts_as_positive_with_one_positive_bag() -> None:
    # 40 patients with a negative and a positive bag, 40 with two negative ones
    labels = [0, 1] * 40 + [0, 0] * 40
    split = split_bags(table(labels, [i // 2 for i in range(160)]), config(val=0.25, test=0.25))
    counts = split.groupby("split")["label"].agg(["size", "sum"])
    assert counts["size"].to_dict() == {"test": 40, "val": 40, "train": 80}
    assert counts["sum"].to_dict() == {"test": 10, "val": 10, "train": 20}


def test_another_seed_gives_another_split() -> None:
    bags = table([0, 1] * 30)
    assert split_fingerprint(split_bags(bags, config(seed=0))) != split_fingerprint(split_bags(bags, config(seed=1)))


def test_the_order_of_the_rows_does_not_matter() -> None:
    bags = table([0, 1] * 30)
    shuffled = bags.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(split_bags(bags, config()), split_bags(shuffled, config()))


def given_splits(names: str, labels: list[int] | None = None) -> pd.DataFrame:
    """Four bags a letter (t train, v val, e test, - none), negative and positive by turns."""
    words = {"t": "train", "v": "val", "e": "test", "-": None, "x": "holdout"}
    splits = [words[letter] for letter in names for _ in range(4)]
    return table(labels or [0, 1] * (len(splits) // 2), splits=splits)


def test_the_splits_of_the_dataset_are_kept() -> None:
    bags = given_splits("ttve")
    split = split_bags(bags, config(kind="source")).set_index("bag_id")["split"]
    assert split.to_dict() == dict(zip(bags["bag_id"], bags["split"], strict=True))


@pytest.mark.parametrize("second", ["v", "e"])
def test_with_train_and_one_other_split_val_is_drawn_from_train(second: str) -> None:
    bags = given_splits("ttttt" + second)
    split = split_bags(bags, config(kind="source", val=0.2)).set_index("bag_id")["split"]
    others = bags.loc[bags["split"] != "train", "bag_id"]
    assert (split[others] == "test").all()
    drawn = split.drop(others)
    assert drawn.value_counts().to_dict() == {"train": 16, "val": 4}
    labels = bags.set_index("bag_id")["bag_label"]
    assert labels[drawn.index[drawn == "val"]].sum() == 2  # stratified


def test_a_bag_without_a_label_needs_no_split() -> None:
    bags = given_splits("ttve-", labels=[0, 1] * 8 + [-1] * 4)
    assert len(split_bags(bags, config(kind="source"))) == 16


def checked(splits: list[str], labels: list[int], patients: list[str] | None = None) -> pd.DataFrame:
    names = [f"b{i}" for i in range(len(splits))]
    return pd.DataFrame({"bag_id": names, "patient_id": patients or names, "label": labels, "split": splits})


def test_the_fingerprint_changes_with_the_assignment_alone() -> None:
    split = split_bags(table([0, 1] * 20), config())
    same = split.assign(label=1 - split["label"], diameter_mm=0.0)
    assert split_fingerprint(same) == split_fingerprint(split)
    for column in ("bag_id", "patient_id", "split"):
        other = split.copy()
        other.loc[0, column] = {"split": "val" if split.loc[0, "split"] != "val" else "test"}.get(column, "new")
        assert split_fingerprint(other) != split_fingerprint(split)


def test_a_saved_split_is_read_back(tmp_path: Path) -> None:
    split = split_bags(table([0, 1] * 20), config())
    split["patient_id"] = [f"00{i}" for i in range(len(split))]  # no numbers
    save_split(split, tmp_path / "split.csv")
    read = read_split(tmp_path / "split.csv")
    assert read.to_dict("list") == split.to_dict("list")
    assert split_fingerprint(read) == split_fingerprint(split)


def test_ids_that_look_like_missing_values_are_read_back(tmp_path: Path) -> None:
    split = checked(["train", "train", "val", "test"], [0, 1, 0, 1], ["NA", "null", "None", "1e5"])
    save_split(split.assign(diameter_mm=[1.5, np.nan, np.nan, 2]), tmp_path / "split.csv")
    read = read_split(tmp_path / "split.csv")
    assert read["patient_id"].tolist() == ["NA", "null", "None", "1e5"]
    np.testing.assert_array_equal(read["diameter_mm"], [1.5, np.nan, np.nan, 2])


def test_votes_add_bags_without_a_label_of_patients_that_are_not_held_out() -> None:
    labels = [patient % 2 for patient in range(24)]
    bags = table([*labels, -1, -1, *[-1] * 24], [*range(24), 98, 99, *range(24)])
    bags["votes"] = 0.4
    bags.loc[bags["patient_id"] == "p98", "votes"] = np.nan
    plain, extended = split_bags(bags, config()), split_bags(bags, config(), votes=True)
    extra = extended[extended["split"] == "extra"]
    pd.testing.assert_frame_equal(extended[extended["split"] != "extra"].reset_index(drop=True), plain)
    assert set(extra["patient_id"]) == {"p99", *plain.loc[plain["split"] == "train", "patient_id"]}
    assert set(extra["label"]) == {-1}
    check_split(extended)
    held_out = plain.loc[plain["split"] == "test", "patient_id"].iloc[0]
    with pytest.raises(LungtlError, match=held_out):
        check_split(pd.concat([extended, extra.head(1).assign(patient_id=held_out)]))


@pytest.mark.parametrize("kind", ["holdout", "kfold"])
def test_fewer_patients_train_and_a_larger_number_keeps_those_of_a_smaller_one(kind: str) -> None:
    bags = table([0, 1, -1] * 40, [i // 2 for i in range(120)]).assign(votes=0.5)
    whole = split_bags(bags, config(kind=kind), votes=True).set_index("bag_id")
    training = {"train", EXTRA}
    kept: list[set[str]] = []
    for count in (4, 10, 20):
        fewer = split_bags(bags, config(kind=kind, train_patients=count), votes=True).set_index("bag_id")
        rows = fewer[fewer["split"].isin(training)]
        assert rows["patient_id"].nunique() == count
        assert (whole.loc[rows.index, "split"] == rows["split"]).all()
        unused = fewer[fewer["split"] == UNUSED]
        assert (whole.loc[unused.index, "split"] == "train").all()
        held, same = (table_[table_["split"].isin(["val", "test"])]["split"] for table_ in (whole, fewer))
        pd.testing.assert_series_equal(held, same)
        kept.append(set(rows["patient_id"]))
    assert kept[0] < kept[1] < kept[2]
    with pytest.raises(UsageError, match=r"train_patients=1000: \d+ patients are for training"):
        split_bags(bags, config(kind=kind, train_patients=1000), votes=True)
