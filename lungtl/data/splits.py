"""Train, validation and test split, always by patient."""

from __future__ import annotations

import logging
import re
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd

from lungtl.data.tables import read_table, write_table
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.sections import SplitConfig
from lungtl.sources.base import UNKNOWN, fingerprint

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")
EXTRA = "extra"
"""Bags without a label that train by their readers' votes; their patients are neither validated nor tested."""
UNUSED = "unused"
"""Bags of patients that `split.train_patients` leaves out of the training."""
UNSEEN = ("test", UNUSED)
MEASURED = ("diameter_mm", "density")
"""What readers measured of a nodule: columns of a store's bags, of a split where the store has them."""
DIGITS = 16  # of a SHA-256; enough that no two of a billion images share them by chance


def split_bags(bags: pd.DataFrame, config: SplitConfig, votes: bool = False) -> pd.DataFrame:
    """Assign every labelled bag of a store's table to train, val or test.

    `holdout` draws patients at random, stratified by whether they have a positive bag; `kfold` uses fold k for testing
    and fold k+1 for validation; `source` uses the splits of the dataset. If the dataset has no test split, its val
    split is the test split; a missing val split is drawn from train, so that the test split never selects the epoch.

    With `votes`, bags without a label whose readers' votes are known are the split `extra`, unless their patient is
    in val or test: they change nothing about the other splits. With `train_patients`, that many patients of train and
    extra stay there; a larger number keeps those of a smaller one. The other bags of train become `unused`.

    Returns:
        bag_id, patient_id, those of `MEASURED` that there are, label (-1 in extra), split; sorted by bag_id and checked
        by `check_split`.

    Raises:
        LungtlError: the split is not usable (`check_split`), or two of its parts have the same voxels.
    """
    labelled = bags[bags["bag_label"] != UNKNOWN]
    if labelled.empty:
        raise LungtlError(f"none of the {len(bags)} cases has a label; add labels to the dataset's table")
    table = identified(labelled)
    if config.kind == "source":
        table["split"] = _given_splits(table.assign(split=labelled["split"].astype("string")), config)
    else:
        table["split"] = _draw_splits(table, config)
    if votes:
        table = pd.concat([table, _extra(bags, table)])
    if len(table) < len(bags):
        log.info("%d cases without a label are skipped", len(bags) - len(table))
    if config.train_patients is not None:
        table = _with_fewer_patients(table, config.train_patients, config.seed)
    table = table.sort_values("bag_id", ignore_index=True)
    check_split(table)
    used = table.assign(split=table["split"].replace(EXTRA, "train"))
    _check_copies(used, bags)
    _warn_of_spellings(used)
    return table


def identified(bags: pd.DataFrame) -> pd.DataFrame:
    """Bags of a store's table: bag_id, patient_id, those of `MEASURED` that there are, label."""
    columns = ["bag_id", "patient_id", *(name for name in MEASURED if name in bags)]
    return bags[columns].assign(label=bags["bag_label"].astype(int))


def _extra(bags: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """The bags without a label that can train, see `split_bags`."""
    held_out = set(table.loc[table["split"] != "train", "patient_id"])
    usable = (bags["bag_label"] == UNKNOWN) & bags["votes"].notna() & ~bags["patient_id"].isin(held_out)
    return identified(bags[usable]).assign(split=EXTRA)


def _with_fewer_patients(table: pd.DataFrame, count: int, seed: int) -> pd.DataFrame:
    training = table["split"].isin(["train", EXTRA])
    patients = sorted(set(table.loc[training, "patient_id"]))
    if count > len(patients):
        raise UsageError(f"split.train_patients={count}: {len(patients)} patients are for training")
    left_out = set(np.random.default_rng(seed).permutation(patients)[count:])
    out = training & table["patient_id"].isin(left_out)
    return table.assign(split=table["split"].mask(out, UNUSED))[~(out & (table["split"] == EXTRA))]


def check_split(table: pd.DataFrame) -> None:
    """Raise LungtlError for a patient in two splits, an empty split, or training data of one class."""
    _check_patients(table)
    for name in SPLITS:
        if not (table["split"] == name).any():
            raise LungtlError(
                f"the {name} split is empty: {len(table)} labelled cases of {table['patient_id'].nunique()} patients "
                "are too few; add patients, or change split.val and split.test"
            )
    labels = sorted(table.loc[table["split"] == "train", "label"].unique())
    if len(labels) < 2:
        raise LungtlError(f"all training cases have label {labels[0]}; training requires both classes: add data")


def _check_patients(table: pd.DataFrame) -> None:
    n_splits = table.replace({"split": {EXTRA: "train"}}).groupby("patient_id")["split"].nunique()
    shared = sorted(n_splits[n_splits > 1].index)
    if shared:
        raise LungtlError(
            f"patient {shared[0]} is in two splits ({len(shared)} such patients); split by patient: split.kind=holdout"
        )


def _check_copies(table: pd.DataFrame, bags: pd.DataFrame) -> None:
    """Raise LungtlError if two splits have bags with the same voxels, whatever their patients are called."""
    if "voxels_sha256" not in bags:  # every store has them, a table made by hand need not
        return
    known = table.merge(bags[["bag_id", "voxels_sha256"]], on="bag_id")
    groups = known[known.groupby("voxels_sha256")["split"].transform("nunique") > 1].groupby("voxels_sha256")
    if len(groups):
        first = next(iter(groups))[1].drop_duplicates("split").head(2)
        names = " and ".join(f"{row.bag_id} ({row.split}, patient {row.patient_id})" for row in first.itertuples())
        raise LungtlError(
            f"{len(groups)} images are in two splits, copied under other ids: {names} have identical voxels; remove "
            "the copies, or give both the same patient id"
        )


def _warn_of_spellings(table: pd.DataFrame) -> None:
    """Warn of patients in two splits whose ids differ in spelling alone."""
    patients = table.drop_duplicates("patient_id")
    alike = patients.groupby(patients["patient_id"].map(_spelling))
    pairs = [group for _, group in alike if group["split"].nunique() > 1]
    if pairs:
        names = " and ".join(
            f"{row.patient_id!a} ({row.split})" for row in pairs[0].drop_duplicates("split").itertuples()
        )
        log.warning(
            "%d patients in two splits have ids that are spelled almost alike, the first are %s; if they are the same "
            "person, correct the ids: the test scores are too optimistic otherwise", len(pairs), names,
        )  # fmt: skip


def _spelling(patient_id: str) -> str:
    """The id without case, blanks, characters that cannot be seen, and zeros that pad a number."""
    text = unicodedata.normalize("NFKC", patient_id).casefold()
    seen = "".join(c for c in text if unicodedata.category(c)[0] not in "ZC")
    return re.sub(r"(?<!\d)0+(?=\d)", "", seen)


def voxel_digests(table: pd.DataFrame, bags: pd.DataFrame) -> dict[str, list[str]]:
    """What a model has seen: train and val -> the first digits of the SHA-256 of their bags' voxels, sorted.

    Args:
        table: of `split_bags`.
        bags: of the store.
    """
    digests = table.merge(bags[["bag_id", "voxels_sha256"]], on="bag_id")
    return {
        side: sorted(digests.loc[digests["split"].isin(parts), "voxels_sha256"].str[:DIGITS])
        for side, parts in (("train", ("train", EXTRA)), ("val", ("val",)))
    }


def split_fingerprint(table: pd.DataFrame) -> str:
    """Hash of the assignment of bags and patients to splits."""
    return fingerprint(table[["bag_id", "patient_id", "split"]].to_numpy().tolist())


def save_split(table: pd.DataFrame, path: Path) -> None:
    """Write the split as CSV, with all its columns."""
    write_table(table, path)


def read_split(path: Path) -> pd.DataFrame:
    """Read a file written by `save_split`."""
    return read_table(path, missing={name: [""] for name in MEASURED})


def _patients(table: pd.DataFrame) -> pd.Series:
    """1 for patients with a positive bag, otherwise 0."""
    return table.groupby("patient_id")["label"].max()


def _draw_splits(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    draw = _folds if config.kind == "kfold" else _holdout
    return table["patient_id"].map(draw(_patients(table), config))


def _holdout(patients: pd.Series, config: SplitConfig) -> dict[str, str]:
    rest, test = _draw(patients, config.test, config.seed, "test")
    train, val = _draw(rest, config.val / (1 - config.test), config.seed, "val")
    return {patient: name for name, part in (("train", train), ("val", val), ("test", test)) for patient in part.index}


def _draw(patients: pd.Series, fraction: float, seed: int, name: str) -> tuple[pd.Series, pd.Series]:
    """Split patients into the rest and a stratified fraction."""
    if fraction >= 1:
        raise UsageError(f"split.val and split.test leave no training data (the {name} fraction is {fraction:.2f})")
    from sklearn.model_selection import train_test_split

    try:
        rest, selected = train_test_split(patients, test_size=fraction, stratify=patients, random_state=seed)
    except ValueError as error:
        counts = ", ".join(f"{n} with label {label}" for label, n in patients.value_counts().sort_index().items())
        raise LungtlError(
            f"{len(patients)} patients ({counts}) are too few for a {name} split with both classes; add patients"
        ) from error
    return rest, selected


def _folds(patients: pd.Series, config: SplitConfig) -> dict[str, str]:
    if patients.value_counts().min() < config.folds or patients.nunique() < 2:
        raise LungtlError(
            f"{config.folds} folds require {config.folds} patients of each class, the rarer class has "
            f"{patients.value_counts().min()}; lower split.folds"
        )
    from sklearn.model_selection import StratifiedKFold

    splitter = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
    split_of = {str(patient): "train" for patient in patients.index}
    for number, (_, members) in enumerate(splitter.split(patients, patients)):
        name = {config.fold: "test", (config.fold + 1) % config.folds: "val"}.get(number)
        if name is not None:
            split_of.update({str(patient): name for patient in patients.index[members]})
    return split_of


def _given_splits(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    given = table["split"]
    names = set(given.dropna())
    if given.isna().any() or "train" not in names or not names <= set(SPLITS) or len(names) < 2:
        raise LungtlError(
            f"split.kind=source: the dataset has {sorted(names) or 'no splits'} and {int(given.isna().sum())} cases "
            "without a split; assign train and val or test to every labelled case, or use split.kind=holdout"
        )
    _check_patients(table)
    split_of = given.astype(object)
    if names == set(SPLITS):
        return split_of
    if "test" not in names:
        log.info("the dataset has no test split: its val split is used as test, and val is drawn from train")
        split_of = split_of.replace("val", "test")
    else:
        log.info("the dataset has no val split: it is drawn from train")
    _, val = _draw(_patients(table[split_of == "train"]), config.val, config.seed, "val")
    return split_of.mask(table["patient_id"].isin(val.index), "val")
