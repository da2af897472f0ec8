"""Where runs live, and how one is found again by its folder or its MLflow id."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from lungtl.settings.errors import UsageError

SPLIT, BUNDLE = "split.csv", "bundle"
METRICS, PREDICTIONS, SLICES, FIGURES = "metrics.json", "predictions.csv", "slices.csv", "figures"
VALIDATION = "validation.csv"
RECORD = "run.json"
"""In a run's folder: its MLflow id, store, split and weights fingerprints."""


def data_dir_of(overrides: list[str]) -> Path:
    """The data folder that a command line names, before its config is composed."""
    named = _named("data_dir", overrides) or os.environ.get("LUNGTL_DATA_DIR", "data")
    return Path(named).expanduser().resolve()


def sweep_dir_of(overrides: list[str], stamp: str) -> Path:
    """The folder of the sweep that a command line names, or of the one that began at `stamp`."""
    return data_dir_of(overrides) / "sweeps" / (_named("sweep.name", overrides) or stamp)


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
    """The folder of a trained model: a run's (see `find_run`), or a bundle's own."""
    folder = Path(reference).expanduser()
    if (folder / "model.safetensors").is_file():
        return folder.resolve()
    run = find_run(reference, data_dir)
    if not (run / BUNDLE).is_dir():
        raise UsageError(f"run {run} has no bundle: it did not finish; resume it with lungtl.train resume={run}")
    return run


def write_record(folder: Path, record: dict[str, Any]) -> None:
    """Write `run.json` so that it is there whole or not at all."""
    temporary = folder / f"{RECORD}.tmp"
    temporary.write_text(json.dumps(record, indent=2))
    temporary.replace(folder / RECORD)


def read_record(folder: Path) -> dict[str, Any]:
    """What `run.json` says."""
    record: dict[str, Any] = json.loads((folder / RECORD).read_text())
    return record


def _named(key: str, overrides: list[str]) -> str | None:
    values = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith(f"{key}=")]
    return values[-1] if values else None
