"""The runs of a sweep's folder: their settings and predictions, and which did not finish."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.data.tables import read_table
from lungtl.evaluation.pooling import CONTROL, RUN_CONTROLS
from lungtl.runs.environment import ENVIRONMENT
from lungtl.runs.folder import (
    CONFIG,
    METRICS,
    PREDICTIONS,
    PRUNED,
    RECORD,
    SPLIT,
    VALIDATION,
    read_json,
    read_record,
    read_yaml,
)
from lungtl.runs.naming import run_name, shorten_overrides
from lungtl.settings.errors import LungtlError, UsageError, first_line
from lungtl.settings.keys import decides_result, flatten, override_key
from lungtl.settings.typed import typed
from lungtl.sweeps.parent import PARENT
from lungtl.sweeps.state import STATUS, State, read_state, status_of

LATEST = "latest"
DAMAGED = (LungtlError, ValueError, LookupError, TypeError, AttributeError)
"""What reading a damaged file of a run raises."""
PRUNED_STATE = "pruned"
"""State of a run that a search stopped early; it has no results."""


@dataclass(frozen=True)
class Run:
    """A finished run."""

    folder: Path
    # dotted key of the config -> value as text, for the keys that decide the result, except the seed
    settings: Mapping[str, str]
    choices: Mapping[str, str]  # config group -> the chosen option
    seed: int
    split_fingerprint: str  # of the train, validation and test split
    store_fingerprint: str  # of the data, independent of their location
    # bag_id, patient_id, label, probability of the test bags, sorted by bag_id; and control_NAME of those of
    # `RUN_CONTROLS` that the run has
    test: pd.DataFrame
    validation: pd.DataFrame | None  # likewise of the validation bags; None where the run has none
    document: Mapping[str, Any]  # its metrics.json
    environment: Mapping[str, Any] | None = None  # its environment.json; None where it has none
    title: str = ""  # its name in run.json

    @property
    def name(self) -> str:
        """Name of its folder."""
        return self.folder.name


@dataclass(frozen=True)
class Unfinished:
    """A run without results."""

    name: str  # of its folder
    settings: str  # its choices and overrides, as far as known
    state: str  # "running", "killed", "failed", "pruned" or "damaged"; "not finished" where nothing more is known
    error: str = ""  # what stopped it; empty where unknown


def find_sweep(reference: str, data_dir: Path) -> Path:
    """The folder of a sweep.

    Args:
        reference: the folder, its name in `data_dir/sweeps`, or "latest": the one last started or resumed.
        data_dir: where sweeps are stored.

    Raises:
        UsageError: there is no such folder.
    """
    # a sweep writes its parent.json whenever it starts or resumes
    records = sorted((data_dir / "sweeps").glob(f"*/{PARENT}"), key=lambda path: path.stat().st_mtime)
    sweeps = [path.parent for path in records]
    if reference == LATEST and sweeps:
        return sweeps[-1]
    named = [data_dir / "sweeps" / reference] if Path(reference).name == reference else []
    for folder in (*named, Path(reference).expanduser()):
        if folder.is_dir():
            return folder.resolve()
    if not sweeps:
        raise UsageError(f"no sweep {reference}: {data_dir} has none yet; start one with {typed('train', '-m')}")
    known = f"{data_dir} has {len(sweeps)}, the latest is {sweeps[-1].name}"
    raise UsageError(f"no sweep {reference}: {known}; give its folder or name")


def run_folders(sweep: Path) -> dict[Path, State | None]:
    """The folders of a sweep's runs, finished or not, in the order of the sweep -> their states, as far as known."""
    folders = {path.parent for marker in (RECORD, METRICS, STATUS) for path in sweep.glob(f"*/{marker}")}
    states = {folder: read_state(folder) for folder in folders}
    order = {folder: (state.number if state else 0, len(folder.name), folder.name) for folder, state in states.items()}
    return {folder: states[folder] for folder in sorted(folders, key=order.__getitem__)}


def read_runs(sweep: Path) -> tuple[list[Run], list[Unfinished]]:
    """Read the runs of a sweep's folder; a run with a damaged file counts as unfinished.

    Raises:
        LungtlError: a finished run lacks a file, or no run finished.
    """
    finished, unfinished = [], []
    for folder, state in run_folders(sweep).items():
        if (folder / METRICS).is_file() and (state is None or state.state == "finished"):
            check_complete(folder)
            try:
                finished.append(read_run(folder))
            except DAMAGED as error:
                kind = "" if isinstance(error, LungtlError) else f"{type(error).__name__}: "
                unfinished.append(Unfinished(folder.name, "", "damaged", kind + first_line(error)))
            continue
        status = "not finished" if state is None else status_of(folder)
        unfinished.append(
            Unfinished(
                folder.name,
                _describe(folder, state.overrides if state else ()),
                PRUNED_STATE if (folder / PRUNED).is_file() else status,
                (state and state.error) or "",
            )
        )
    if not finished:
        raise LungtlError(f"no finished run in {sweep}; give the folder of a sweep, as printed by train -m")
    return finished, unfinished


def check_complete(folder: Path) -> None:
    """Raise LungtlError if a file of a finished run is missing."""
    for needed in (RECORD, CONFIG, PREDICTIONS, SPLIT):
        if not (folder / needed).is_file():
            raise LungtlError(f"run {folder} has no {needed}; move its folder out of the sweep, or rerun it")


def read_run(folder: Path) -> Run:
    """Read one finished run; raises LungtlError, or another of `DAMAGED`, if a file is damaged."""
    config = read_yaml(folder / CONFIG)
    validation, environment = folder / VALIDATION, folder / ENVIRONMENT
    record = read_record(folder)
    return Run(
        folder=folder,
        settings={key: _as_text(value) for key, value in flatten(config).items() if _is_setting(key)},
        choices={group: option for group, option in _choices(record, config).items() if _is_setting(group)},
        seed=int(record["seed"]),
        split_fingerprint=str(record["split_fingerprint"]),
        store_fingerprint=str(record["store_fingerprint"]),
        test=_read_predictions(folder / PREDICTIONS),
        validation=_read_predictions(validation) if validation.is_file() else None,
        document=read_json(folder / METRICS),
        environment=read_json(environment) if environment.is_file() else None,
        title=str(record["name"]),
    )


def _choices(record: Mapping[str, Any], config: Mapping[str, Any]) -> dict[str, str]:
    """Config group -> option: those that run.json records, and others, such as an overlay, that were overridden."""
    overridden = {override_key(override): override.partition("=")[2] for override in record["overrides"]}
    # a key of one part that is no value of the config is a group
    groups = {key: option for key, option in overridden.items() if isinstance(config.get(key, {}), dict)}
    return {**{key: option for key, option in groups.items() if "." not in key}, **record["choices"]}


def _as_text(value: Any) -> str:
    """A config value as written on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _is_setting(key: str) -> bool:
    return decides_result(key) and key not in ("seed", "dry_run")


def _describe(folder: Path, overrides: Sequence[str]) -> str:
    """The choices and overrides of a run; without run.json, which it may not have reached, its overrides alone."""
    if not (folder / RECORD).is_file():
        return " ".join(shorten_overrides(overrides))
    record = read_record(folder)
    return run_name(record["choices"], record["overrides"])


def _read_predictions(path: Path) -> pd.DataFrame:
    table = read_table(path)
    columns = ["bag_id", "patient_id", "label", "probability", *(CONTROL + name for name in RUN_CONTROLS)]
    return table[[name for name in columns if name in table]].sort_values("bag_id", ignore_index=True)
