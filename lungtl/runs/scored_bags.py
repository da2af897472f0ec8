"""Which scans, nodules or patients of a dataset a trained model is scored on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lungtl.data.splits import EXTRA, identified, read_split
from lungtl.data.store.reader import Store
from lungtl.runs.ensemble import read_ensemble
from lungtl.runs.folder import SPLIT, bundle_of, read_record
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import UNKNOWN

log = logging.getLogger(__name__)


class ScoredBags(NamedTuple):
    """The bags that are scored.

    Attributes:
        bags: bag_id, patient_id, what readers measured, label, split: see `lungtl.data.splits`.
        trained_with: the model's own split, with the same columns; None for a bundle without its run.
        split: the name under which the scores stand.
        left_out: patients that split=auto omitted because they trained the model or chose its epoch.
    """

    bags: pd.DataFrame
    trained_with: pd.DataFrame | None
    split: str
    left_out: int


def choose_bags(model: Path, store: Store, wanted: str) -> ScoredBags:
    """Choose the bags to score.

    Args:
        model: a run's or a bundle's folder.
        store: the prepared dataset.
        wanted: all, train, val, test, or auto: test for the store that the run was trained on; for others all, without
            patients who trained the model or chose its epoch (unknown for a bundle without its run).

    Raises:
        LungtlError: there is no labelled bag, or this store does not have the split.
        UsageError: auto leaves no patient.
    """
    labelled = store.bags[store.bags["bag_label"] != UNKNOWN]
    bags = identified(labelled)
    split = read_split(model / SPLIT) if (model / SPLIT).is_file() else None
    same_store = split is not None and _trained_on(model) == store.fingerprint
    seen: set[str] = set()
    if wanted == "auto":
        wanted = "test" if same_store else "all"
        if split is not None and not same_store:
            seen = set(split.loc[split["split"] != "test", "patient_id"]) & set(bags["patient_id"])
        left = f"; {len(seen)} patients who trained the model or chose its epoch are omitted" if seen else ""
        log.info("split=%s: the model was %strained on this dataset%s", wanted, "" if same_store else "not ", left)
    if same_store and split is not None:
        bags = bags.merge(split[["bag_id", "split"]], on="bag_id")
    else:
        bags = bags.assign(split=labelled["split"])
    if wanted != "all":
        given = sorted(bags["split"].dropna().unique())
        if same_store and given == ["train"]:
            raise UsageError(
                f"split={wanted}: every patient of {store.name} trained a member of this ensemble; score another "
                "dataset (this one's out-of-fold results are in pooled/), or split=all for too optimistic scores"
            )
        if wanted not in given:
            raise UsageError(f"split={wanted}: {store.name} has {given or 'no splits'} for this model; use split=all")
        bags = bags[bags["split"] == wanted]
    if bags.empty:
        raise LungtlError(f"{store.name} has no labelled scan, nodule or patient to score; give the dataset labels")
    bags = bags[~bags["patient_id"].isin(seen)]
    if bags.empty:
        raise UsageError(
            f"split=auto: all {len(seen)} patients of {store.name} trained the model or chose its epoch; choose "
            "another dataset, or split=all to score them anyway"
        )
    if trained := shared_patients(bags, split, "train", EXTRA):
        log.warning("%d of the scored patients trained the model, so scores are too optimistic", trained)
    if chose := shared_patients(bags, split, "val"):
        log.warning("%d of the scored patients chose the epoch and thresholds, so scores are too optimistic", chose)
    return ScoredBags(bags.reset_index(drop=True), split, wanted, len(seen))


def _trained_on(model: Path) -> str:
    """The fingerprint of the store that a run, or the members of an ensemble, were trained on."""
    ensemble = read_ensemble(bundle_of(model))
    provenance = read_record(model) if ensemble is None else ensemble[1]["provenance"]
    return str(provenance["store_fingerprint"])


def shared_patients(bags: pd.DataFrame, split: pd.DataFrame | None, *sides: str) -> int | None:
    """How many patients of the bags are in parts of the model's split; None if that is unknown."""
    if split is None:
        return None
    return len(set(bags["patient_id"]) & set(split.loc[split["split"].isin(sides), "patient_id"]))


def check_values(store: Store, provenance: dict[str, object]) -> None:
    """Raise LungtlError if model and store differ in HU or grey values; warn if their crops or bags differ."""
    expected, seen = provenance["value_range"], store.manifest["value_range"]
    if expected != seen:
        names = ["HU" if v is None else f"grey values {v}" for v in (expected, seen)]
        raise LungtlError(f"the model was trained on {names[0]}, {store.name} holds {names[1]}; choose another dataset")
    crop = store.manifest["recipe"].get("crop", "none")
    if provenance["crop"] != crop:
        log.warning("the model was trained with dataset.crop=%s, %s has %s", provenance["crop"], store.name, crop)
    bag = store.manifest["recipe"].get("bag", "scan")
    if provenance.get("bag", bag) != bag:
        log.warning("the model was trained with dataset.bag=%s, %s has %s", provenance["bag"], store.name, bag)
