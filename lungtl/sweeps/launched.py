"""The sweep that this process launches, from its plan to its comparison."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lungtl.settings.errors import LungtlError
from lungtl.sweeps.parent import LOCK, parent_of, progress, tags_of, write_parent
from lungtl.sweeps.publish import CONFIG, publish_sweep
from lungtl.sweeps.search.extras import check_installed
from lungtl.sweeps.state import children, read_state, standing

if TYPE_CHECKING:
    from lungtl.settings.schema import TrackingConfig
    from lungtl.sweeps.state import State
    from lungtl.tracking.tracker import Tracker

log = logging.getLogger(__name__)
LOOK_AGAIN = 1.0  # seconds, while other processes have children


@dataclass
class Launched:
    """The sweep that this process launches.

    Attributes:
        folder: its own.
        tracker: the parent run.
        asked: folders of the children that this call asked for, in their order; None where a search chooses them.
        states: of the children when their launcher was started.
    """

    folder: Path
    tracker: Tracker
    asked: tuple[Path, ...] | None
    states: dict[Path, State | None] = field(init=False)

    def __post_init__(self) -> None:
        self.remember()

    def remember(self) -> None:
        """Remember how the children stand, as their launcher starts."""
        self.states = self._states()

    def moved(self) -> bool:
        """Whether any child began, or ended, since the launcher was started."""
        return self._states() != self.states

    def unfinished(self) -> dict[Path, str]:
        """The children of this call that did not finish -> why."""
        return {folder: _why(folder) for folder in self._own() if standing(folder) not in ("finished", "running")}

    def elsewhere(self) -> list[Path]:
        """The children of this call that other processes have in hand."""
        return [folder for folder in self._own() if standing(folder) == "running"]

    def _own(self) -> list[Path]:
        return children(self.folder) if self.asked is None else list(self.asked)

    def _states(self) -> dict[Path, State | None]:
        return {folder: read_state(folder) for folder in children(self.folder)}


_launched: list[Launched] = []


def start_sweep(config: Any) -> None:
    """Print the plan, open the parent run and write parent.json; once, however often the call launches the children."""
    from lungtl.sweeps.plan import grid, print_plan, started_before

    if _launched:
        _launched[0].remember()
        return
    check_installed(config.hydra.launcher["_target_"])
    sweep = Path(config.hydra.sweep.dir).resolve()
    sweep.mkdir(parents=True, exist_ok=True)
    earlier, planned = started_before(sweep), grid(config)
    print_plan(sweep, earlier if planned is None else planned, config.sweep.retry)
    if planned is None:
        total = max(len(earlier), config.hydra.sweeper.get("n_trials") or 0)
    else:
        total = len({child.folder for child in [*earlier, *planned]})
    tracker = _open_parent(config, sweep, total)
    _launched.append(Launched(sweep, tracker, None if planned is None else tuple(child.folder for child in planned)))


def _open_parent(config: Any, sweep: Path, total: int) -> Tracker:
    """The parent run, which may be there already; one call of a sweep at a time, so that there is one parent."""
    from omegaconf import OmegaConf

    from lungtl.tracking.mlflow_run import FOLDER, find_or_create_run, git_tags
    from lungtl.tracking.tracker import MlflowTracker, NoTracker

    tracker: Tracker = NoTracker()
    with FileLock(sweep / LOCK):
        if config.tracking.enabled:
            tracking, data_dir = tracking_of(config)
            name = str(config.sweep.name or config.name or f"sweep {sweep.name}")
            own = {"lungtl.kind": "sweep", FOLDER: str(sweep)}
            run_id = parent_of(sweep) or find_or_create_run(tracking, data_dir, name, own)
            tracker = MlflowTracker(tracking, data_dir, name, sweep, publish_sweep, run_id)
            tracker.tags(
                {**own, **git_tags(), "sweep": sweep.name, "lungtl.grid": " ".join(config.hydra.overrides.task)}
            )
            composed = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
            (sweep / CONFIG).write_text(OmegaConf.to_yaml(composed))
            tracker.artifacts(sweep / CONFIG)
        write_parent(sweep, tracker.run_id, total, config.trainer.monitor)
    return tracker


def launch_again(error: Exception) -> bool:
    """Whether the launcher that has stopped should be started once more, for the children that are left.

    A process that is killed stops joblib's launcher, and the processes beside its own; submitit's no longer waits for
    the others. Each launch has to get a child further, and `run_child` gives a child up that only ever takes its
    process with it, so that this ends.
    """
    if not _launched:
        return False
    _wait(_launched[0])
    if not _launched[0].moved():
        return False
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}"[:200]
    log.warning("the launcher has stopped (%s); it starts once more, for the runs that are left", reason)
    return True


def _wait(launched: Launched) -> None:
    """Wait for the children that other processes have in hand: only then is the sweep done."""
    others = launched.elsewhere()
    if others:
        names = _names(launched.folder)
        log.info("waiting for other processes to end: %s", ", ".join(names.get(f, f.name) for f in others))
    while launched.elsewhere():
        time.sleep(LOOK_AGAIN)


def end_sweep(status: str) -> bool:
    """Print the comparison, close the parent run and say what did not finish; once.

    Args:
        status: how the launching of the children ended: FINISHED, FAILED or KILLED; FINISHED waits for those that
            other processes have in hand.

    Returns:
        Whether a sweep had begun.

    Raises:
        LungtlError: all were launched, and some did not finish.
    """
    if not _launched:
        return False
    if status == "FINISHED":
        _wait(_launched[0])
    launched = _launched.pop()
    sweep, tracker, unfinished = launched.folder, launched.tracker, launched.unfinished()
    now = progress(sweep)
    tags = tags_of(sweep, now)
    _report(sweep, print_only=not now.done)
    try:
        publish_sweep(tracker, sweep)
        tracker.close("FAILED" if unfinished and status == "FINISHED" else status)
    except LungtlError as error:
        log.error("the sweep's own run is not up to date: %s", error)
    again = f"sweep.name={sweep.name}"
    if now.left:
        log.info("%d of the sweep's runs are left; the same command with %s goes on", now.left, again)
    names = _names(sweep)
    if now.best is not None:
        log.info(
            "best run by %s: %s; next: python -m lungtl.register run=%s",
            tags["lungtl.best_by"], names.get(now.best, now.best.name), tags["lungtl.best"],
        )  # fmt: skip
    for folder, why in unfinished.items():
        log.error("not finished: %s: %s", names.get(folder, folder.name), why)
    if unfinished and status == "FINISHED":
        raise LungtlError(
            f"{len(unfinished)} of the runs did not finish, see above and in {sweep}; mend it, then the same command "
            f"with {again} sweep.retry=true"
        )
    return True


def _names(sweep: Path) -> dict[Path, str]:
    """What tells the children that began apart."""
    from lungtl.runs.naming import differing

    everyone = {folder: state for folder in children(sweep) if (state := read_state(folder)) is not None}
    names = differing([" ".join(state.overrides) for state in everyone.values()]) if everyone else []
    return dict(zip(everyone, names, strict=True))


def _report(sweep: Path, print_only: bool) -> None:
    """Print and write the comparison, or log why not.

    Whatever goes wrong with it, the runs are there, and their parent has to be closed.
    """
    from lungtl.sweeps.report.write import print_sweep, write_report

    try:
        print_sweep(sweep)
        if not print_only:
            write_report(sweep)
    except LungtlError as error:
        log.error("no report: %s", error)
    except Exception:
        log.exception("no report")


def _why(folder: Path) -> str:
    """What there is to say of a child that is not finished and that nobody runs."""
    state = read_state(folder)
    if state is None:
        return "it was not started"
    return state.error or "its process ended before it could say why (killed, or out of memory)"


def tracking_of(config: Any) -> tuple[TrackingConfig, Path]:
    """Where the runs of a config, as Hydra has it, are tracked."""
    from lungtl.settings.schema import TrackingConfig

    return TrackingConfig(**dict(config.tracking)), Path(config.data_dir).expanduser().resolve()
