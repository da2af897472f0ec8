"""The runs of a cross-validation in a sweep's folder: which setting, seed and fold each is, and what it left."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.runs.folder import SPLIT
from lungtl.runs.naming import run_name
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import config_key, is_setting, meaning, override_key, read_fingerprints
from lungtl.sweeps.state import children

if TYPE_CHECKING:
    from lungtl.evaluation.pooling import Fold


@dataclass(frozen=True)
class Job:
    """One fold's run, finished or not.

    Attributes:
        folder: its own.
        setting: the hash of what it computes, but fold and seeds.
        name: of the setting; it leaves out where data lie.
        split_seed: of the folds.
        seed: of the training.
        fold: which one it tests.
        folds: how many there are.
        resamples: of patients, for the intervals.
    """

    folder: Path
    setting: str
    name: str
    split_seed: int
    seed: int
    fold: int
    folds: int
    resamples: int


def find_jobs(sweep: Path) -> list[Job]:
    """The runs that the sweep started, in the order of their numbers; a dry run started none.

    A setting is called by what was overridden, or as `name=` says; where that is the name of several, by both.
    """
    from omegaconf import OmegaConf

    jobs: list[Job] = []
    fingerprints = read_fingerprints(sweep)
    named: dict[str, set[str]] = defaultdict(set)  # `name=` -> its settings
    for path in (folder / ".hydra" for folder in children(sweep)):
        config: Any = OmegaConf.to_container(OmegaConf.load(path / "config.yaml"))
        choices = OmegaConf.load(path / "hydra.yaml").hydra.runtime.choices
        overrides = [str(line) for line in OmegaConf.load(path / "overrides.yaml")]
        derived = run_name(choices, [line for line in overrides if _names_setting(override_key(line))])
        split, seed = config["split"], config["seed"]
        split_seed, fold = split["seed"], split["fold"]
        given, setting = config["name"], config_key(config, fingerprints, repeats=False)
        name = derived if given is None else f"{given}: {derived}"
        resamples = config["evaluation"]["resamples"]
        jobs.append(Job(path.parent, setting, name, split_seed, seed, fold, split["folds"], resamples))
        if given is not None:
            named[str(given)].add(setting)
    alone = {setting: given for given, settings in named.items() for setting in settings if len(settings) == 1}
    return [replace(job, name=alone.get(job.setting, job.name)) for job in jobs]


def _names_setting(key: str) -> bool:
    return is_setting(key) and not meaning(key).set_by_crossval


def read_folds(jobs: list[Job]) -> list[Fold]:
    """What the runs of one repeat left, by fold.

    Raises:
        LungtlError: a fold did not finish.
    """
    import pandas as pd

    from lungtl.data.splits import read_split
    from lungtl.evaluation.pooling import Fold
    from lungtl.runs.folder import METRICS, PREDICTIONS

    finished = {job.fold: job.folder for job in jobs if (job.folder / METRICS).is_file()}
    missing = [fold for fold in range(jobs[0].folds) if fold not in finished]
    if missing:
        places = ", ".join(str(job.folder) for job in jobs if job.fold in missing) or "never started"
        raise LungtlError(f"fold {', '.join(map(str, missing))} did not finish ({places}); mend it and run again")
    folds = []
    for fold, folder in sorted(finished.items()):
        document = json.loads((folder / METRICS).read_text())
        # a bag may be called "NA"
        predictions = pd.read_csv(folder / PREDICTIONS, dtype={"bag_id": str}, keep_default_na=False)
        values = {name: estimate["value"] for name, estimate in document["bag"]["metrics"].items()}
        kind = document["chosen"]["kind"] if document["chosen"] else "none"
        calibration = kind if kind in document["calibrated"] else "none"
        folds.append(Fold(fold, read_split(folder / SPLIT), predictions, values, calibration))
    return folds
