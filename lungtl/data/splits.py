"""Who trains, who chooses the epoch, who is tested: always by patient."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import SplitConfig
from lungtl.sources.base import UNKNOWN, fingerprint

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
SPLITS = ("train", "val", "test")


def split_bags(bags: pd.DataFrame, config: SplitConfig) -> pd.DataFrame:
    """Assign every labelled bag to train, val or test.

    Args:
        bags: the store's table.
        config: `holdout` draws patients, stratified by whether they have a positive bag; `kfold` takes fold k for
            testing and fold k+1 for validation; `source` takes the splits of the dataset itself. A dataset that
            gives no test split has its val split tested, and one that gives no further split has val drawn from
            its train, so that what is reported never chose the epoch.

    Returns:
        bag_id, patient_id, diameter_mm, label, split; sorted by bag_id.

    Raises:
        LungtlError: a split would be empty, training would see one class, or a patient stands on two sides.
    """
    labelled = bags[bags["bag_label"] != UNKNOWN]
    if len(labelled) < len(bags):
        log.info("%d bags without a label are left out", len(bags) - len(labelled))
    table = labelled[["bag_id", "patient_id", "diameter_mm"]].assign(label=labelled["bag_label"].astype(int))
    given = labelled["split"]
    table["split"] = _given(table, given, config) if config.kind == "source" else _drawn(table, config)
    table = table.sort_values("bag_id", ignore_index=True)
    check_split(table)
    return table


def check_split(table: pd.DataFrame) -> None:
    """Raise LungtlError for a patient on two sides, an empty split, or training data of one class."""
    sides = table.groupby("patient_id")["split"].nunique()
    shared = sorted(sides[sides > 1].index)
    if shared:
        raise LungtlError(
            f"patient {shared[0]} stands on two sides of the split ({len(shared)} such patients); "
            "split by patient: split.kind=holdout"
        )
    for name in SPLITS:
        if not (table["split"] == name).any():
            raise LungtlError(
                f"the {name} split is empty: {len(table)} labelled bags of {table['patient_id'].nunique()} patients "
                "are too few; add patients or change split.val and split.test"
            )
    labels = sorted(table.loc[table["split"] == "train", "label"].unique())
    if len(labels) < 2:
        raise LungtlError(f"all training bags have the label {labels[0]}; a classifier needs both classes: add data")


def split_fingerprint(table: pd.DataFrame) -> str:
    """Hash of who is where."""
    return fingerprint(table[["bag_id", "patient_id", "split"]].to_numpy().tolist())


def save_split(table: pd.DataFrame, path: Path) -> None:
    """Write the split as CSV: bag_id, patient_id, diameter_mm, label, split."""
    table.to_csv(path, index=False)


def read_split(path: Path) -> pd.DataFrame:
    """Read what `save_split` wrote."""
    import pandas as pd

    # a patient may be called "NA": only a missing diameter is missing
    missing = {"diameter_mm": [""]}
    return pd.read_csv(path, dtype={"bag_id": str, "patient_id": str}, keep_default_na=False, na_values=missing)


def _drawn(table: pd.DataFrame, config: SplitConfig) -> pd.Series:
    patients = table.groupby("patient_id")["label"].max()
    if config.kind == "kfold":
        return table["patient_id"].map(_folds(patients, config))
    rest, test = _draw(patients, config.test, config.seed, "test")
    train, val = _draw(rest, config.val / (1 - config.test), config.seed, "val")
    sides = {name: part.index for name, part in (("train", train), ("val", val), ("test", test))}
    return table["patient_id"].map({patient: name for name, part in sides.items() for patient in part})


def _draw(patients: pd.Series, share: float, seed: int, name: str) -> tuple[pd.Series, pd.Series]:
    """Split patients into the rest and a stratified share."""
    from sklearn.model_selection import train_test_split

    if share >= 1:
        raise UsageError(f"split.val and split.test leave nothing to train on (the {name} share is {share:.2f})")
    try:
        rest, drawn = train_test_split(patients, test_size=share, stratify=patients, random_state=seed)
    except ValueError as error:
        counts = ", ".join(f"{n} with label {label}" for label, n in patients.value_counts().sort_index().items())
        raise LungtlError(
            f"{len(patients)} patients ({counts}) are too few for a {name} split with both classes; add patients"
        ) from error
    return rest, drawn


def _folds(patients: pd.Series, config: SplitConfig) -> dict[str, str]:
    from sklearn.model_selection import StratifiedKFold

    if patients.value_counts().min() < config.folds or patients.nunique() < 2:
        raise LungtlError(
            f"{config.folds} folds need that many patients of each class, the rarer has "
            f"{patients.value_counts().min()}; lower split.folds"
        )
    splitter = StratifiedKFold(config.folds, shuffle=True, random_state=config.seed)
    sides = {str(patient): "train" for patient in patients.index}
    for number, (_, members) in enumerate(splitter.split(patients, patients)):
        name = {config.fold: "test", (config.fold + 1) % config.folds: "val"}.get(number)
        if name is not None:
            sides.update({str(patient): name for patient in patients.index[members]})
    return sides


def _given(table: pd.DataFrame, given: pd.Series, config: SplitConfig) -> pd.Series:
    given = given.astype("string")
    names = set(given.dropna())
    if given.isna().any() or "train" not in names or not names <= set(SPLITS) or len(names) < 2:
        raise LungtlError(
            f"split.kind=source: the dataset gives {sorted(names) or 'no splits'} and {int(given.isna().sum())} bags "
            "without one; it must give train and val or test to every labelled bag, or use split.kind=holdout"
        )
    check_sides = table.assign(split=given).groupby("patient_id")["split"].nunique()
    if (check_sides > 1).any():
        patient = check_sides[check_sides > 1].index[0]
        raise LungtlError(f"the dataset puts patient {patient} on two sides of its split; use split.kind=holdout")
    sides = given.astype(object)
    if names == set(SPLITS):
        return sides
    if "test" not in names:
        log.info("the dataset has no test split: its val split is tested, and val is drawn from its train")
        sides = sides.replace("val", "test")
    else:
        log.info("the dataset has no val split: it is drawn from its train")
    train = table[sides == "train"].groupby("patient_id")["label"].max()
    _, val = _draw(train, config.val, config.seed, "val")
    return sides.mask(table["patient_id"].isin(val.index), "val")
