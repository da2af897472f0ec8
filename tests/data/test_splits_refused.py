"""Splits that cannot be drawn, or that separate what belongs together."""

from __future__ import annotations

import pandas as pd
import pytest

from lungtl.data import splits
from lungtl.data.splits import check_split, split_bags
from lungtl.settings.errors import LungtlError, UsageError
from tests.data.test_splits import checked, config, given_splits, table


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("ttve-", r"the dataset has \['test', 'train', 'val'\] and 4 cases without a split"),
        ("---", "has no splits and 12 cases without a split"),
        ("vve", r"the dataset has \['test', 'val'\]"),
        ("ttt", r"the dataset has \['train'\]"),
        ("ttvx", "holdout"),
    ],
)
def test_splits_that_cannot_be_used_are_refused(names: str, message: str) -> None:
    with pytest.raises(LungtlError, match=message) as error:
        split_bags(given_splits(names), config(kind="source"))
    assert "split.kind=holdout" in str(error.value)


@pytest.mark.parametrize("names", ["ttve", "tttttv", "ttttte"])
def test_a_dataset_with_a_patient_in_two_splits_is_refused(names: str) -> None:
    bags = given_splits(names)
    bags.loc[bags["split"] != "train", "patient_id"] = "p0"
    with pytest.raises(LungtlError, match="patient p0 is in two splits"):
        split_bags(bags, config(kind="source"))


@pytest.mark.parametrize("kind", ["holdout", "kfold", "source"])
def test_a_split_that_separates_the_bags_of_a_patient_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here the split is by bag, like a careless split of slices or nodules."""

    def bag_by_bag(table: pd.DataFrame, *_: object) -> pd.Series:
        return pd.Series([("train", "val", "test")[i % 3] for i in range(len(table))], table.index)

    monkeypatch.setattr(splits, "_draw_splits", bag_by_bag)
    monkeypatch.setattr(splits, "_given_splits", bag_by_bag)
    patients = [i // 2 for i in range(24)]
    with pytest.raises(LungtlError, match=r"patient p0 is in two splits \(12 such patients\)"):
        split_bags(table([0, 1] * 12, patients), config(kind=kind))
    one_each = split_bags(table([0, 1] * 12), config(kind=kind))
    assert one_each["split"].nunique() == 3


def test_too_few_patients_of_a_class_for_a_holdout() -> None:
    with pytest.raises(LungtlError, match=r"11 patients \(10 with label 0, 1 with label 1\) are too few"):
        split_bags(table([0] * 10 + [1]), config())


def test_too_few_patients_of_a_class_for_the_folds() -> None:
    with pytest.raises(LungtlError, match="5 folds require 5 patients of each class, the rarer class has 3"):
        split_bags(table([0] * 10 + [1] * 3), config(kind="kfold"))


@pytest.mark.parametrize("kind", ["holdout", "kfold"])
@pytest.mark.parametrize("label", [0, 1])
def test_one_class_is_refused(kind: str, label: int) -> None:
    with pytest.raises(LungtlError):
        split_bags(table([label] * 20), config(kind=kind))


@pytest.mark.parametrize("kind", ["holdout", "kfold"])
def test_no_label_at_all_is_refused(kind: str) -> None:
    with pytest.raises(LungtlError):
        split_bags(table([-1] * 20), config(kind=kind))


def test_fractions_without_training_data_are_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"split\.val and split\.test leave no training data"):
        split_bags(table([0, 1] * 20), config(val=0.5, test=0.5))


def test_a_fold_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"split\.fold=5: with split\.folds=5, give 0 to 4"):
        config(kind="kfold", fold=5)


def test_check_split_accepts_what_is_right() -> None:
    check_split(checked(["train", "train", "val", "test"], [0, 1, 0, 0]))


@pytest.mark.parametrize(
    ("splits", "labels", "patients", "message"),
    [
        (["train", "train", "val", "test"], [0, 1, 0, 1], ["a", "b", "c", "b"], "patient b is in two splits"),
        (["train", "train", "test"], [0, 1, 0], None, "the val split is empty: 3 labelled cases of 3 patients"),
        (["train", "train", "val"], [0, 1, 0], None, "the test split is empty"),
        (["val", "test"], [0, 1], None, "the train split is empty"),
        (["train", "train", "val", "test"], [1, 1, 0, 1], None, "all training cases have label 1"),
    ],
)
def test_check_split_names_what_is_wrong(
    splits: list[str], labels: list[int], patients: list[str] | None, message: str
) -> None:
    with pytest.raises(LungtlError, match=message):
        check_split(checked(splits, labels, patients))


@pytest.mark.parametrize("kind", ["holdout", "kfold", "source"])
def test_a_dataset_without_labels_says_so(kind: str) -> None:
    with pytest.raises(LungtlError, match="none of the 9 cases has a label; add labels"):
        split_bags(table([-1] * 9), config(kind=kind))


def test_copies_under_other_patient_ids_are_refused_across_splits() -> None:
    bags = table([0, 1] * 6, splits=[*["train"] * 6, *["val"] * 3, *["test"] * 3])
    digests = [f"{i:064d}" for i in range(12)]
    source = config(kind="source")
    split_bags(bags.assign(voxels_sha256=digests), source)
    digests[1] = digests[0]  # within the training split a copy leaks nothing
    split_bags(bags.assign(voxels_sha256=digests), source)
    digests[11] = digests[0]
    bags["voxels_sha256"] = digests
    with pytest.raises(
        LungtlError, match=r"1 images are in two splits.* b000 \(test, patient p11\) and b01[01] \(train"
    ):
        split_bags(bags, source)


@pytest.mark.parametrize(
    ("other", "alike"),
    [("lidc-idri-0001", True), ("LIDC-IDRI-0001\u200b", True), ("LIDC-IDRI- 0001", True), ("LIDC-IDRI-1", True),
     ("\uff2cIDC-IDRI-0001", True), ("LIDC-IDRI-00010", False), ("LIDC-IDRI-0010", False), ("LIDC-IDRI-1001", False)],
)  # fmt: skip
def test_ids_that_are_spelled_almost_alike_are_named(other: str, alike: bool, caplog: pytest.LogCaptureFixture) -> None:
    bags = table([0, 1] * 6, splits=[*["train"] * 6, *["val"] * 3, *["test"] * 3])
    bags.loc[0, "patient_id"], bags.loc[11, "patient_id"] = "LIDC-IDRI-0001", other
    split_bags(bags, config(kind="source"))
    assert ("spelled almost alike" in caplog.text) is alike
    if alike:
        assert "'LIDC-IDRI-0001' (train)" in caplog.text
        assert f"{other!a} (test)" in caplog.text
