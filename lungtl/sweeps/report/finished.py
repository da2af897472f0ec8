"""The runs of a sweep's folder: what each was set to, what it predicted, and which did not finish."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.evaluation.pooling import UNTRAINED
from lungtl.runs.environment import ENVIRONMENT
from lungtl.runs.folder import METRICS, PREDICTIONS, RECORD, SPLIT, VALIDATION, read_record
from lungtl.runs.naming import flatten, run_name
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import is_setting
from lungtl.sweeps.parent import PARENT
from lungtl.sweeps.search.names import PRUNED
from lungtl.sweeps.state import STATUS, status_of

if TYPE_CHECKING:
    import pandas as pd

LATEST = "latest"
PRUNED_STATE = "pruned"
"""Of a run that a search stopped since others were better; it ended as it was meant to, without results."""
HYDRA = ".hydra"
CONFIG = f"{HYDRA}/config.yaml"


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: its own.
        settings: dotted key of the config -> value, as text, less names, places, tracking and the seed.
        choices: config group -> the option that was chosen.
        seed: of the training.
        split_fingerprint: who was trained on, who chose the epoch, who was tested.
        store_fingerprint: of the data themselves, wherever they lie.
        test: bag_id, patient_id, label, probability of the test bags, sorted by bag_id; and control_untrained where
            the run has that control.
        validation: likewise of the validation bags; None where the run did not keep them.
        document: its metrics.json.
        environment: its environment.json; None where it has none.
    """

    folder: Path
    settings: Mapping[str, str]
    choices: Mapping[str, str]
    seed: int
    split_fingerprint: str
    store_fingerprint: str
    test: pd.DataFrame
    validation: pd.DataFrame | None
    document: Mapping[str, Any]
    environment: Mapping[str, Any] | None = None

    @property
    def name(self) -> str:
        """Of its folder: what Hydra numbered it."""
        return self.folder.name


@dataclass(frozen=True)
class Unfinished:
    """A run without results.

    Attributes:
        name: of its folder.
        described: its choices, and what else was overridden; empty where it did not come that far.
        state: "running", "killed", "failed" or "pruned"; "not finished" where nothing more is known.
        error: what stopped it; empty where that is not known.
    """

    name: str
    described: str
    state: str
    error: str = ""


def find_sweep(reference: str, data_dir: Path) -> Path:
    """The folder of a sweep.

    Args:
        reference: the folder, its name in `data_dir/sweeps`, or "latest": the one that was last started or went on.
        data_dir: where sweeps lie.

    Raises:
        UsageError: there is no such folder.
    """
    folder = Path(reference).expanduser()
    # a sweep writes its parent.json when it starts, and again when it goes on
    sweeps = [path.parent for path in sorted((data_dir / "sweeps").glob(f"*/{PARENT}"), key=_written)]
    if reference == LATEST and sweeps:
        return sweeps[-1]
    for place in (data_dir / "sweeps" / reference, folder):
        if place.is_dir():
            return place.resolve()
    known = f"the last is {sweeps[-1].name}" if sweeps else "python -m lungtl.train -m makes one"
    raise UsageError(f"no sweep {reference} among the {len(sweeps)} of {data_dir}; give its folder or name ({known})")


def children(folder: Path) -> list[Path]:
    """The folders of a sweep's runs, finished or not, in the order in which they were asked for."""
    marks = (RECORD, METRICS, STATUS, CONFIG)
    found = [path for path in folder.glob("*") if any((path / mark).is_file() for mark in marks)]
    return sorted(found, key=lambda path: (_status(path).get("number", 0), len(path.name), path.name))


def is_finished(folder: Path) -> bool:
    """Whether a run left results, and nothing says that it is still at it or broke."""
    return (folder / METRICS).is_file() and _status(folder).get("state", "finished") == "finished"


def read_runs(folder: Path) -> tuple[list[Run], list[Unfinished]]:
    """Read what the runs of a sweep left.

    Raises:
        LungtlError: a finished run's files do not fit each other, or no run finished.
    """
    finished, unfinished = [], []
    for child in children(folder):
        if is_finished(child):
            finished.append(read_run(child))
        else:
            status = _status(child)
            state = PRUNED_STATE if (child / PRUNED).is_file() else str(status.get("state", "not finished"))
            if state == "running":
                state = status_of(child)  # it may have been killed
            unfinished.append(Unfinished(child.name, _described(child), state, str(status.get("error") or "")))
    if not finished:
        raise nothing_finished(folder)
    return finished, unfinished


def nothing_finished(folder: Path) -> LungtlError:
    """The error of a folder without a finished run."""
    return LungtlError(f"no finished run below {folder}; give the folder of a sweep, or the one that train -m printed")


def read_run(folder: Path) -> Run:
    """Read one finished run.

    Raises:
        LungtlError: a file is missing.
    """
    from omegaconf import OmegaConf

    for needed in (RECORD, PREDICTIONS, SPLIT, CONFIG):
        if not (folder / needed).is_file():
            raise LungtlError(f"run {folder} has no {needed}; move the folder out of the sweep, or run it again")
    config: Any = OmegaConf.to_container(OmegaConf.load(folder / CONFIG))
    validation = folder / VALIDATION
    record = read_record(folder)
    return Run(
        folder=folder,
        settings={key: as_text(value) for key, value in flatten(config).items() if is_setting(key)},
        choices={group: choice for group, choice in _choices(folder).items() if is_setting(group)},
        seed=int(record["seed"]),
        split_fingerprint=str(record["split_fingerprint"]),
        store_fingerprint=str(record["store_fingerprint"]),
        test=_read_predictions(folder / PREDICTIONS),
        validation=_read_predictions(validation) if validation.is_file() else None,
        document=json.loads((folder / METRICS).read_text()),
        environment=json.loads((folder / ENVIRONMENT).read_text()) if (folder / ENVIRONMENT).is_file() else None,
    )


def as_text(value: Any) -> str:
    """A value of a config as one writes it on the command line."""
    return value if isinstance(value, str) else json.dumps(value)


def _choices(folder: Path) -> dict[str, str]:
    """Config group -> the option that was chosen; nothing where Hydra did not come that far."""
    from omegaconf import OmegaConf

    path = folder / HYDRA / "hydra.yaml"
    choices = OmegaConf.load(path).hydra.runtime.choices if path.is_file() else {}
    return {str(group): str(option) for group, option in choices.items()}


def _described(folder: Path) -> str:
    from omegaconf import OmegaConf

    path = folder / HYDRA / "overrides.yaml"
    choices = _choices(folder)
    return run_name(choices, map(str, OmegaConf.load(path))) if choices and path.is_file() else ""


def _written(path: Path) -> float:
    return path.stat().st_mtime


def _status(folder: Path) -> dict[str, Any]:
    """What status.json says; nothing where there is none, or it is being written."""
    try:
        status = json.loads((folder / STATUS).read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return status if isinstance(status, dict) else {}


def _read_predictions(path: Path) -> pd.DataFrame:
    import pandas as pd

    # a bag or a patient may be called "NA"
    table = pd.read_csv(path, dtype={"bag_id": str, "patient_id": str}, keep_default_na=False)
    columns = ["bag_id", "patient_id", "label", "probability", UNTRAINED]
    return table[[name for name in columns if name in table]].sort_values("bag_id", ignore_index=True)
