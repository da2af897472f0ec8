"""The runs of a cross-validation in a sweep's folder: the setting, seeds and fold of each, and its results.

Settings are read from Hydra's own files, which also runs have that failed before they wrote config.yaml: all folds of
a setting must have one key, that of the sweep.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

from lungtl.data.splits import EXTRA
from lungtl.data.tables import read_table
from lungtl.evaluation.covariates import WITH_COVARIATES
from lungtl.evaluation.pooling import Fold
from lungtl.runs.folder import METRICS, PREDICTIONS, read_json, read_yaml
from lungtl.runs.naming import run_name
from lungtl.runs.record import read_own_split
from lungtl.settings.choices import actual_choices
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import config_key, meaning, override_key, read_fingerprints
from lungtl.sweeps.state import read_states


@dataclass(frozen=True)
class FoldRun:
    """The run of one fold, finished or not."""

    folder: Path
    setting: str  # hash of the config without fold and seeds
    name: str  # of the setting
    split_seed: int
    seed: int
    fold: int  # that it tests
    folds: int  # number of folds
    resamples: int  # of patients, for the intervals


def find_runs(sweep: Path) -> list[FoldRun]:
    """The runs that the sweep started, by job number; a dry run starts none.

    A setting is named after its overrides or with `name=`, or with both if several settings share that name.
    """
    runs: list[FoldRun] = []
    fingerprints = read_fingerprints(sweep)
    settings_of: dict[str, set[str]] = defaultdict(set)  # `name=` -> settings
    for path in (folder / ".hydra" for folder in read_states(sweep)):
        config, started = read_yaml(path / "config.yaml"), read_yaml(path / "hydra.yaml")["hydra"]
        overrides = list(map(str, started["overrides"]["task"]))
        choices = actual_choices(started["runtime"]["choices"], config)
        derived = run_name(choices, [line for line in overrides if _names_setting(override_key(line))])
        split, seed = config["split"], config["seed"]
        split_seed, fold = split["seed"], split["fold"]
        given, setting = config["name"], config_key(config, fingerprints, repeats=False)
        name = derived if given is None else f"{given}: {derived}"
        resamples = config["evaluation"]["resamples"]
        runs.append(FoldRun(path.parent, setting, name, split_seed, seed, fold, split["folds"], resamples))
        if given is not None:
            settings_of[str(given)].add(setting)
    unique = {setting: given for given, settings in settings_of.items() for setting in settings if len(settings) == 1}
    return [replace(run, name=unique.get(run.setting, run.name)) for run in runs]


def _names_setting(key: str) -> bool:
    return meaning(key).identity == "setting" and not meaning(key).set_by_crossval


def read_folds(runs: list[FoldRun]) -> list[Fold]:
    """The results of one repeat, by fold.

    Raises:
        LungtlError: a fold did not finish.
    """
    finished = {run.fold: run.folder for run in runs if (run.folder / METRICS).is_file()}
    missing = [fold for fold in range(runs[0].folds) if fold not in finished]
    if missing:
        folders = ", ".join(str(run.folder) for run in runs if run.fold in missing) or "never started"
        raise LungtlError(
            f"fold {', '.join(map(str, missing))} did not finish ({folders}); fix the cause, then rerun the "
            f"same command with sweep.name={runs[0].folder.parent.name} sweep.retry=true"
        )
    folds = []
    for fold, folder in sorted(finished.items()):
        document = read_json(folder / METRICS)
        predictions = read_table(folder / PREDICTIONS, missing={WITH_COVARIATES: [""]})
        values = {name: estimate["value"] for name, estimate in document["bag"]["metrics"].items()}
        kind = document["chosen"]["kind"] if document["chosen"] else "none"
        calibration = kind if kind in document["calibrated"] else "none"
        covariates = (document.get("with_covariates") or {}).get("covariates", ())
        split = read_own_split(folder)
        split = split[split["split"] != EXTRA]  # every fold has others
        folds.append(Fold(fold, split, predictions, values, calibration, covariates))
    return folds
