"""Which scans, nodules or patients of a dataset a trained model is scored on."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from lungtl.bundle import SEEN
from lungtl.data.splits import DIGITS, EXTRA, UNSEEN, identified
from lungtl.data.store.reader import Store
from lungtl.runs.ensemble import read_ensemble
from lungtl.runs.folder import MEMBERS, SPLIT, bundle_of, read_json, read_record
from lungtl.runs.record import read_own_split
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sources.base import UNKNOWN

log = logging.getLogger(__name__)
UID = r"[0-2](\.\d+){4,}"
"""A DICOM identifier, which names one series anywhere; other ids may be equal by chance."""


class ScoredBags(NamedTuple):
    """The bags that are scored.

    Attributes:
        bags: bag_id, patient_id, what readers measured, label, split: see `lungtl.data.splits`.
        trained_with: the model's own split, with the same columns; None for a bundle without its run.
        split: the name under which the scores stand.
        left_out: patients that split=auto omitted because they may have trained the model or chosen its epoch.
        training: how many of the scored patients trained the model, or have the id of one; None if unknown.
        validation: likewise of those that chose its epoch.
    """

    bags: pd.DataFrame
    trained_with: pd.DataFrame | None
    split: str
    left_out: int
    training: int | None
    validation: int | None


def choose_bags(model: Path, store: Store, wanted: str) -> ScoredBags:
    """Choose the bags to score.

    What trained the model is known by its series and voxels. An equal patient id alone is no proof: another cohort may
    count its patients likewise.

    Args:
        model: a run's or a bundle's folder.
        store: the prepared dataset.
        wanted: all, train, val, test, or auto: test for the store that the run was trained on; for others all, without
            patients who trained the model or chose its epoch, or may have.

    Raises:
        LungtlError: there is no labelled bag, this store does not have the split, or the model's split was altered.
        UsageError: auto leaves no patient.
    """
    labelled = store.bags[store.bags["bag_label"] != UNKNOWN]
    trained_with = read_own_split(model) if (model / SPLIT).is_file() else None
    split = None if trained_with is None else trained_with.replace({"split": {EXTRA: "train"}})
    same_store = split is not None and _trained_on(model) == store.fingerprint
    bags = identified(labelled).assign(split=labelled["split"], side=_sides(model, labelled, split, same_store))
    if same_store and split is not None:
        bags = bags.drop(columns="split").merge(split[["bag_id", "split"]], on="bag_id")
    auto = wanted == "auto"
    if auto:
        wanted = "test" if same_store else "all"
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
    known = split is not None or _seen_voxels(model) is not None
    left_out = 0
    if auto and not same_store:
        kept = bags[~bags["patient_id"].isin(_patients(bags, split, "train", "val"))]
        left_out = bags["patient_id"].nunique() - kept["patient_id"].nunique()
        if kept.empty:
            raise UsageError(
                f"split=auto: all {left_out} patients of {store.name} trained the model or chose its epoch, or have "
                "the ids of such patients; choose another dataset, or split=all to score them anyway"
            )
        _log_choice(bags, split, known, left_out)
        bags = kept
    elif auto:
        log.info("split=%s: the model was trained on this dataset", wanted)
    _warn(bags, split)
    counts = [len(_patients(bags, split, side)) if known else None for side in ("train", "val")]
    return ScoredBags(bags.drop(columns="side").reset_index(drop=True), trained_with, wanted, left_out, *counts)


def _sides(model: Path, bags: pd.DataFrame, split: pd.DataFrame | None, same_store: bool) -> pd.Series:
    """Which of these bags trained the model ("train") or chose its epoch ("val"), as far as known; otherwise None."""
    sides = {digest: side for side, digests in (_seen_voxels(model) or {}).items() for digest in digests}
    named: dict[str, str] = {}
    if split is not None:
        seen = split[~split["split"].isin(UNSEEN)]
        seen = seen if same_store else seen[seen["bag_id"].str.fullmatch(UID)]
        named = dict(zip(seen["bag_id"], seen["split"], strict=True))
    rows = zip(bags["bag_id"], bags["voxels_sha256"].str[:DIGITS], strict=True)
    return pd.Series([named.get(bag_id, sides.get(digest)) for bag_id, digest in rows], bags.index, dtype=object)


def _seen_voxels(model: Path) -> dict[str, list[str]] | None:
    """The seen.json of a bundle, or of all members of an ensemble; None for the first bundles, which have none."""
    bundle = bundle_of(model)
    contents = [read_json(path) for path in (*bundle.glob(SEEN), *bundle.glob(f"{MEMBERS}/*/{SEEN}"))]
    if not contents:
        return None
    # a scan that trained one member is last in what `_sides` reads, also if another member validated it
    return {side: [digest for content in contents for digest in content[side]] for side in ("val", "train")}


def _patients(bags: pd.DataFrame, split: pd.DataFrame | None, *sides: str) -> set[str]:
    """The patients of bags with a scan in these parts of the model's split, or with the id of a patient there."""
    ids = set() if split is None else set(split.loc[split["split"].isin(sides), "patient_id"])
    return _certain(bags, *sides) | (ids & set(bags["patient_id"]))


def _certain(bags: pd.DataFrame, *sides: str) -> set[str]:
    return set(bags.loc[bags["side"].isin(sides), "patient_id"])


def _log_choice(bags: pd.DataFrame, split: pd.DataFrame | None, known: bool, left_out: int) -> None:
    if not known:
        log.warning(
            "split=all: this bundle does not say what trained it, so scores may be too optimistic; give its run"
        )
    elif not left_out:
        compared = "voxels" if split is None else "series, voxels and patient ids"
        log.info("split=all: no scored patient trained the model or chose its epoch, compared by %s", compared)
    if certain := len(_certain(bags, "train", "val")):
        log.info("split=all: %d patients are left out, since they trained the model or chose its epoch", certain)
    if left_out > certain:
        log.warning(
            "split=all: %d patients are left out, since patients who trained the model or chose its epoch have the "
            "same ids; if these are other people, score them with split=all", left_out - certain,
        )  # fmt: skip


def _warn(bags: pd.DataFrame, split: pd.DataFrame | None) -> None:
    for side, did in (("train", "trained the model"), ("val", "chose the epoch and thresholds")):
        certain = _certain(bags, side)
        if certain:
            log.warning("%d of the scored patients %s, so scores are too optimistic", len(certain), did)
        if same := len(_patients(bags, split, side) - certain):
            log.warning(
                "%d of the scored patients have the id of one who %s; if they are the same, scores are too optimistic",
                same, did,
            )  # fmt: skip


def _trained_on(model: Path) -> str:
    """The fingerprint of the store that a run, or the members of an ensemble, were trained on."""
    ensemble = read_ensemble(bundle_of(model))
    provenance = read_record(model) if ensemble is None else ensemble[1]["provenance"]
    return str(provenance["store_fingerprint"])


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
    if (provenance.get("bag") or bag) != bag:
        log.warning("the model was trained with dataset.bag=%s, %s has %s", provenance["bag"], store.name, bag)
