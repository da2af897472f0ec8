"""The files of a run's folder, and how a run is found by its folder or its MLflow id."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from lungtl.settings.errors import UsageError

RECORD, CONFIG, SPLIT, BUNDLE = "run.json", "config.yaml", "split.csv", "bundle"
METRICS, PREDICTIONS, SLICES, FIGURES = "metrics.json", "predictions.csv", "slices.csv", "figures"
VALIDATION = "validation.csv"
MEMBERS = "members"
"""In the bundle of an ensemble (see `lungtl.runs.ensemble`)."""
PRUNED = "pruned.json"
"""Written by a search that stopped the run early because others were better."""


def data_dir_of(overrides: list[str]) -> Path:
    """The data folder that a command line names, before its config is composed."""
    named = _last_value("data_dir", overrides) or os.environ.get("LUNGTL_DATA_DIR", "data")
    return Path(named).expanduser().resolve()


def sweep_dir_of(overrides: list[str], stamp: str) -> Path:
    """The folder of the sweep that a command line names, or of the one that started at `stamp`."""
    return data_dir_of(overrides) / "sweeps" / (_last_value("sweep.name", overrides) or stamp)


def new_run_folder(data_dir: Path) -> Path:
    """A folder for a run that is not started from the command line; named by the time, like the others."""
    return data_dir / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find_run(reference: str, data_dir: Path) -> Path:
    """The folder of a run.

    Args:
        reference: its folder, or its MLflow id (the first eight characters or more).
        data_dir: where runs are searched for by id.

    Raises:
        UsageError: there is no such run.
    """
    folder = Path(reference).expanduser()
    if (folder / RECORD).is_file():
        return folder.resolve()
    if folder.is_dir():
        raise UsageError(f"{reference} is not a run's folder (no {RECORD}); give the folder that train printed")
    records = sorted([*data_dir.glob(f"runs/*/{RECORD}"), *data_dir.glob(f"sweeps/*/*/{RECORD}")])
    if len(reference) >= 8:
        for record in records:
            if str(read_record(record.parent).get("mlflow_run_id") or "").startswith(reference):
                return record.parent
    raise UsageError(
        f"no run {reference} among the {len(records)} in {data_dir}; give a run's folder or MLflow id, or data_dir="
    )


def find_model(reference: str, data_dir: Path) -> Path:
    """The folder of a trained model: a run's (see `find_run`), a bundle's own, or one with an ensemble's bundle/."""
    folder = Path(reference).expanduser()
    ensemble = any((place / MEMBERS).is_dir() for place in (folder, folder / BUNDLE))
    if ensemble or (folder / "model.safetensors").is_file():
        return folder.resolve()
    run = find_run(reference, data_dir)
    if not (run / BUNDLE).is_dir():
        raise UsageError(f"run {run} has no bundle because it did not finish; resume it: lungtl train resume={run}")
    return run


def bundle_of(model: Path) -> Path:
    """The bundle's folder of what `find_model` returned."""
    return model / BUNDLE if (model / BUNDLE).is_dir() else model


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json atomically; a run that has one can be resumed."""
    temporary = folder / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2))
    temporary.replace(folder / RECORD)


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.json."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def _last_value(key: str, overrides: list[str]) -> str | None:
    values = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith(f"{key}=")]
    return values[-1] if values else None
