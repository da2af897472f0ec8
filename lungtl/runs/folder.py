"""The files of a run's folder, and how a run is found by its folder or its MLflow id."""

from __future__ import annotations

import json
import logging
import os
import secrets
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from lungtl.data.store.files import whole_file
from lungtl.settings.credentials import has_password
from lungtl.settings.errors import LungtlError, UsageError, first_line
from lungtl.settings.text import DATA_DIR, DATA_DIR_VARIABLE, given_value
from lungtl.settings.typed import assigned, typed

if TYPE_CHECKING:
    from lungtl.settings.sections import TrackingConfig

log = logging.getLogger(__name__)

RECORD, CONFIG, SPLIT, BUNDLE = "run.json", "config.yaml", "split.csv", "bundle"
METRICS, PREDICTIONS, SLICES, FIGURES = "metrics.json", "predictions.csv", "slices.csv", "figures"
VALIDATION = "validation.csv"
LATEST = "latest"
"""Names the run that was started or resumed last, as far as it has what is needed."""
LOCK = "status.lock"
MEMBERS = "members"
"""In the bundle of an ensemble (see `lungtl.runs.ensemble`)."""
PRUNED = "pruned.json"
"""Written by a search that stopped the run early because others were better."""


EXPERIMENT = "lungtl"
"""The default of tracking.experiment in conf/tracking/mlflow.yaml."""


def data_dir_of(overrides: list[str]) -> Path:
    """The data folder that a command line names, before its config is composed."""
    named = given_value(DATA_DIR, overrides) or os.environ.get(DATA_DIR_VARIABLE, "data")
    return Path(named).expanduser().resolve()


def is_inside(folder: Path, data_dir: Path) -> bool:
    """Whether a run's folder is where runs of this data folder are."""
    return data_dir / "runs" == folder.parent or data_dir / "sweeps" == folder.parent.parent


def place_of_data(data_dir: Path) -> list[str]:
    """`data_dir=...`; empty if a command without it uses the same folder."""
    return [] if data_dir == data_dir_of([]) else [assigned(DATA_DIR, data_dir)]


def places(data_dir: Path, tracking: TrackingConfig) -> list[str]:
    """`data_dir=... tracking.uri=... tracking.experiment=...`, those that differ from the defaults; no password."""
    found = place_of_data(data_dir)
    if tracking.enabled and tracking.uri is not None and not has_password(tracking.uri):  # from the environment
        found.append(assigned("tracking.uri", tracking.uri))
    if tracking.enabled and tracking.experiment != EXPERIMENT:
        found.append(assigned("tracking.experiment", tracking.experiment))
    return found


def how_to_resume(folder: Path) -> str:
    """The command that resumes a run."""
    data_dir = folder.parents[1] if folder.parent.name == "runs" else folder.parents[2]
    return typed("train", assigned("resume", folder), *(place_of_data(data_dir) if is_inside(folder, data_dir) else ()))


def new_run_folder(data_dir: Path) -> Path:
    """A folder for a run that is not started from the command line; named by the time, like the others."""
    return data_dir / "runs" / f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def find_run(reference: str, data_dir: Path, needed: str = RECORD) -> Path:
    """The folder of a run.

    Args:
        reference: its folder, its MLflow id (the first eight characters or more), or "latest".
        data_dir: where runs are searched for by id.
        needed: a file or folder that "latest" must have.

    Raises:
        UsageError: there is no such run.
    """
    folder = Path(reference).expanduser()
    if (folder / RECORD).is_file():
        return folder.resolve()
    if folder.is_dir():
        raise UsageError(f"{reference} is not a run's folder (no {RECORD}); give the folder that train printed")
    records = sorted([*data_dir.glob(f"runs/*/{RECORD}"), *data_dir.glob(f"sweeps/*/*/{RECORD}")])
    if reference == LATEST:
        usable = [record for record in records if (record.parent / needed).exists()]
        if not usable:
            raise UsageError(f"no run in {data_dir} has {needed} yet; train one, or give another data_dir=")
        return max(usable, key=lambda record: record.stat().st_mtime).parent
    if len(reference) >= 8:
        for record in records:
            if _mlflow_id(record.parent).startswith(reference):
                return record.parent
    raise UsageError(
        f"no run {reference} among the {len(records)} in {data_dir}; give a run's folder or MLflow id, or data_dir="
    )


def find_model(reference: str, data_dir: Path) -> Path:
    """The folder of a trained model: a run's (see `find_run`), a bundle's own, or one with an ensemble's bundle/."""
    if reference.startswith("models:/"):
        raise UsageError(f"model={reference} is a name in MLflow; give the run's folder or MLflow id, or latest")
    folder = Path(reference).expanduser()
    ensemble = any((place / MEMBERS).is_dir() for place in (folder, folder / BUNDLE))
    if ensemble or (folder / "model.safetensors").is_file():
        return folder.resolve()
    run = find_run(reference, data_dir, BUNDLE)
    if not (run / BUNDLE).is_dir():
        raise UsageError(f"run {run} has no bundle because it did not finish; resume it: {how_to_resume(run)}")
    return run


def bundle_of(model: Path) -> Path:
    """The bundle's folder of what `find_model` returned."""
    return model / BUNDLE if (model / BUNDLE).is_dir() else model


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write run.json atomically; a run that has one can be resumed."""
    with whole_file(folder / RECORD, folder) as file:
        file.write(json.dumps(record, indent=2).encode())


def read_record(folder: Path) -> dict[str, Any]:
    """The content of run.json."""
    return read_json(folder / RECORD)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; raises LungtlError if the file is damaged, e.g. by a power failure."""
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise LungtlError(f"{path} is damaged ({first_line(error)}); restore it, or remove its folder") from error
    if not isinstance(content, dict):
        raise LungtlError(f"{path} is damaged (expected a JSON object); restore it, or remove its folder")
    return content


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping as plain values: no interpolation is resolved. Raises LungtlError if the file is damaged."""
    try:
        content = OmegaConf.to_container(OmegaConf.load(path))
    except (YAMLError, OmegaConfBaseException, ValueError, OSError) as error:
        raise LungtlError(f"{path} cannot be read ({first_line(error)}); restore it, or remove its folder") from error
    if not isinstance(content, dict):
        raise LungtlError(f"{path} is damaged (expected a mapping); restore it, or remove its folder")
    return {str(key): value for key, value in content.items()}


def run_lock(folder: Path) -> FileLock:
    """The lock that a run's process holds; the system releases it however the process ends."""
    return FileLock(folder / LOCK)


def _mlflow_id(folder: Path) -> str:
    """A run's MLflow id; "" without tracking, or with a warning if its record is damaged."""
    try:
        return str(read_record(folder).get("mlflow_run_id") or "")
    except LungtlError as error:
        log.warning("%s", error)
        return ""
