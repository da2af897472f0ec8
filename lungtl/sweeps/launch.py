"""The sweep that this process launches: its start, restarts of its launcher, its end."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock
from omegaconf import OmegaConf

from lungtl.evaluation.formatting import plural
from lungtl.runs.folder import BUNDLE, places
from lungtl.runs.naming import differing
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import override_key
from lungtl.settings.parent_process import PARENT
from lungtl.settings.sections import TrackingConfig
from lungtl.settings.typed import assigned, typed, typed_again
from lungtl.sweeps.datasets import record_datasets
from lungtl.sweeps.installed import check_installed
from lungtl.sweeps.parent import (
    CONFIG,
    LOCK,
    REPORT,
    best_tags,
    parent_of,
    progress,
    publish_sweep,
    run_reference,
    write_parent,
)  # fmt: skip
from lungtl.sweeps.plan import compose_grid, plan_runs, print_plan, started_before
from lungtl.sweeps.state import State, read_state, read_states, status_of
from lungtl.tracking.mlflow_run import FOLDER, Tracker, find_or_create_run, git_tags
from lungtl.tracking.tracker import MlflowTracker

log = logging.getLogger(__name__)
POLL = 1.0  # seconds, while other processes have runs in progress


@dataclass
class Sweep:
    """The sweep that this process launches."""

    folder: Path
    tracker: Tracker  # of the parent run
    planned: tuple[Path, ...] | None  # folders of the runs of this call; None if a search chooses them
    states: dict[Path, State]  # when the launcher was last started
    places: list[str] = field(default_factory=list)  # overrides that lead the next command to its data and MLflow
    dataset: list[str] = field(default_factory=list)  # overrides of the dataset that all runs share
    folds: bool = False  # of a cross-validation: they are pooled, and are no settings to choose from
    ensemble: bool = False  # the runs of all settings are one model

    def with_status(self, *statuses: str) -> list[Path]:
        """The runs of this call with one of these statuses."""
        folders = read_states(self.folder) if self.planned is None else self.planned
        return [folder for folder in folders if status_of(folder) in statuses]

    def wait_for_other_processes(self) -> None:
        """Wait for runs that other processes have in progress: only then is the sweep done."""
        if running := self.with_status("running"):
            names = _run_names(self.folder)
            log.info("waiting for runs in other processes: %s", ", ".join(names.get(f, f.name) for f in running))
        while self.with_status("running"):
            time.sleep(POLL)


_current: Sweep | None = None


def start(config: Any) -> None:
    """Print the plan, open the parent run and write parent.json; once, however often the launcher is started."""
    global _current
    if _current is not None:
        _current.states = read_states(_current.folder)
        return
    launcher = config.hydra.launcher["_target_"]
    check_installed(launcher)
    if "joblib" in launcher:  # its workers wait for ever for the next run of a killed launcher
        os.environ[PARENT] = str(os.getpid())
    runs = compose_grid(config)
    folder = Path(config.hydra.sweep.dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if runs is not None:
        record_datasets(folder, [composed for _, composed in runs])
    earlier, planned = started_before(folder), None if runs is None else plan_runs(folder, runs)
    print_plan(folder, earlier if planned is None else planned, config.sweep.retry)
    total = max(len({**earlier, **(planned or {})}), config.hydra.sweeper.get("n_trials") or 0)
    tracker = _open_parent(config, folder, total)
    folders = None if planned is None else tuple(planned)
    tracking, data_dir = tracking_of(config)
    shared = [line for line in map(str, config.hydra.overrides.task) if "," not in line]
    _current = Sweep(
        folder, tracker, folders, read_states(folder), places(data_dir, tracking),
        dataset=[line for line in shared if override_key(line).partition(".")[0] == "dataset"],
        folds=config.hydra.job.config_name == "crossval",
        ensemble=config.sweep.ensemble,
    )  # fmt: skip


def _open_parent(config: Any, sweep: Path, total: int) -> Tracker:
    """Create the parent run, or reopen it; the lock makes concurrent calls of a sweep share one parent."""
    tracker = Tracker()
    with FileLock(sweep / LOCK):
        if config.tracking.enabled:
            tracking, data_dir = tracking_of(config)
            name = str(config.sweep.name or config.name or f"sweep {sweep.name}")
            identity = {"lungtl.kind": "sweep", FOLDER: str(sweep)}
            run_id = parent_of(sweep) or find_or_create_run(tracking, data_dir, name, identity)
            tracker = MlflowTracker(tracking, data_dir, name, sweep, publish_sweep, run_id)
            task = " ".join(config.hydra.overrides.task)
            tracker.tags({**identity, **git_tags(), "sweep": sweep.name, "lungtl.grid": task})
            composed = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            (sweep / CONFIG).write_text(OmegaConf.to_yaml(composed), encoding="utf-8")
            tracker.artifacts(sweep / CONFIG)
        write_parent(sweep, tracker.run_id, total, config.trainer.monitor)
    return tracker


def relaunch(error: Exception) -> bool:
    """Whether to start the launcher once more after it stopped with this error, for the remaining runs.

    A killed process stops joblib's launcher and the other workers; submitit's no longer waits for the other jobs. Each
    launch must change a run's state, and a run that keeps crashing is given up, so this ends.
    """
    if _current is None:
        return False
    _current.wait_for_other_processes()
    if read_states(_current.folder) == _current.states:
        return False
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    log.warning("the launcher has stopped (%s); restarting it for the remaining runs", reason)
    return True


def end(status: str) -> bool:
    """Print the comparison or pool the folds, close the parent run and list the runs that did not finish; once.

    Args:
        status: how launching ended: FINISHED, FAILED or KILLED; FINISHED waits for runs in other processes.

    Returns:
        Whether there was a sweep.

    Raises:
        LungtlError: launching finished, but some runs did not, or folds could not be pooled.
    """
    global _current
    if _current is None:
        return False
    if status == "FINISHED":
        _current.wait_for_other_processes()
    sweep, tracker, where = _current.folder, _current.tracker, _current.places
    folds, data, ensemble = _current.folds, _current.dataset, _current.ensemble
    unfinished, _current = _current.with_status("new", "killed", "failed"), None
    now = progress(sweep)
    chosen = None if folds else _write_report(sweep)
    best = now.best if chosen is None else chosen
    if not unfinished:
        _write_ensemble(sweep, ensemble)
    try:
        publish_sweep(tracker, sweep)
        if chosen is not None:
            tracker.tags(best_tags(chosen, "validation AUROC of its setting"))
        tracker.close("FAILED" if unfinished and status == "FINISHED" else status)
    except LungtlError as error:
        log.error("the sweep's own MLflow run is not up to date: %s", error)
    if now.left:
        log.info("%s left; to continue: %s", plural(now.left, "run"), typed_again(assigned("sweep.name", sweep.name)))
    names = _run_names(sweep)
    if now.best is not None and chosen is not None and now.best != chosen:
        monitor = read_states(sweep)[now.best].monitor
        log.info("%s alone has the best %s; settings are compared by their validation AUROC", names[now.best], monitor)
    if chosen is not None:
        log.info("report  %s", sweep / REPORT / "report.html")
    if best is not None and not folds:
        if parent_of(sweep) is not None:
            log.info("next    %s", typed("ui", *where))
            log.info("        %s", typed("register", assigned("run", run_reference(best)), *where))
        else:
            log.info("next    %s", typed("evaluate", assigned("model", best), *data, *where))
    for folder in unfinished:
        log.error("not finished: %s: %s", names.get(folder, folder.name), _reason(folder))
    if folds and status == "FINISHED":
        from lungtl.sweeps.folds.pooled import pool_sweep  # pandas, matplotlib

        pool_sweep(sweep, ensemble)
    if unfinished and status == "FINISHED":
        raise LungtlError(
            f"{plural(len(unfinished), 'run')} did not finish (see above and {sweep}); fix the cause, then: "
            f"{typed_again(assigned('sweep.name', sweep.name), 'sweep.retry=true')}"
        )
    return True


def _run_names(sweep: Path) -> dict[Path, str]:
    """The runs that have started -> the overrides that distinguish them."""
    states = read_states(sweep)
    names = differing([" ".join(state.overrides) for state in states.values()]) if states else []
    return dict(zip(states, names, strict=True))


def _write_report(sweep: Path) -> Path | None:
    """Print and write the comparison; errors are only logged, since the parent run must be closed.

    Returns:
        The folder of the best setting's run.
    """
    from lungtl.sweeps.report.write import write_report  # pandas, matplotlib

    try:
        return write_report(sweep)
    except LungtlError as error:
        log.error("no report: %s", error)
    except Exception:
        log.exception("no report")
    return None


def _write_ensemble(sweep: Path, all_settings: bool = False) -> None:
    """Write the ensemble of a sweep's runs into its folder; nothing for fewer than two.

    Several settings make one only with `all_settings`. Runs that differ in their data have none, which is only logged,
    since the parent run must be closed.
    """
    if sum((folder / BUNDLE).is_dir() for folder in read_states(sweep)) < 2:
        return
    from lungtl.runs.ensemble import write_ensemble  # pandas, torch
    from lungtl.sweeps.folds.runs import find_runs

    try:
        runs = [run for run in find_runs(sweep) if (run.folder / BUNDLE).is_dir()]
        settings = dict.fromkeys(run.name for run in runs)
        if len({run.setting for run in runs}) > 1 and not all_settings:
            return
        name = f"ensemble of {len(runs)}: {', '.join(settings)}"
        write_ensemble([run.folder for run in runs], sweep, name, parent_of(sweep))
        log.info("the %d runs as one model: %s", len(runs), typed("evaluate", assigned("model", sweep), "dataset=..."))
    except LungtlError as error:
        log.error("no ensemble: %s", error)


def _reason(folder: Path) -> str:
    """Why a run that nobody runs has not finished."""
    state = read_state(folder)
    if state is None:
        return "it was not started"
    return state.error or "its process ended with no error message (killed or out of memory)"


def tracking_of(config: Any) -> tuple[TrackingConfig, Path]:
    """The tracking settings and data folder of a composed config."""
    return TrackingConfig(**dict(config.tracking)), Path(config.data_dir).expanduser().resolve()
