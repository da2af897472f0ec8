"""Where Hydra tells of a sweep: its start, in the process that launches the children, and the end of each of them.

Hydra calls `on_multirun_end` only when nothing was raised; `lungtl.cli` calls `end_sweep` instead.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

from lungtl.errors import LungtlError
from lungtl.search.extras import check_installed
from lungtl.sweeps import key  # noqa: F401  # its resolvers, which a worker needs before its job
from lungtl.sweeps.parent import metrics_of, parent_of, progress, run_reference, tags_of, tell_progress, write_parent
from lungtl.sweeps.state import children, read_state, standing

if TYPE_CHECKING:
    from lungtl.config import TrackingConfig
    from lungtl.tracking.tracker import Tracker

log = logging.getLogger(__name__)
CONFIG, MULTIRUN = "config.yaml", "multirun.yaml"


@dataclass(frozen=True)
class Started:
    """The sweep that this process launches.

    Attributes:
        folder: its own.
        tracker: the parent run.
        asked: folders of the children that this call asked for, in their order; None where a search chooses them.
    """

    folder: Path
    tracker: Tracker
    asked: tuple[Path, ...] | None

    def unfinished(self) -> dict[Path, str]:
        """The children of this call that did not finish -> why."""
        asked = children(self.folder) if self.asked is None else self.asked
        return {folder: _why(folder) for folder in asked if standing(folder) not in ("finished", "running")}


_started: list[Started] = []


def _why(folder: Path) -> str:
    """What there is to say of a child that is not finished and that nobody runs."""
    state = read_state(folder)
    if state is None:
        return "it was not started"
    return state.error or "its process ended before it could say why (killed, or out of memory)"


class SweepCallback(Callback):
    """Opens the parent run and says what is going to happen; then keeps the parent up to date. Holds no state."""

    def on_multirun_start(self, config: Any, **kwargs: Any) -> None:
        """Say what each child is, and create or reopen the parent run."""
        from lungtl import cli

        if config.dry_run:
            return
        try:
            _started.append(start_sweep(config))
        except LungtlError as error:
            cli.fail(error)  # Hydra would only warn
        except Exception as error:
            log.exception("the sweep does not start")
            cli.fail(LungtlError(f"the sweep does not start ({type(error).__name__}: {error}); see above"))

    def on_job_end(self, config: Any, job_return: Any, **kwargs: Any) -> None:
        """Update the parent when the child did something; this may be another process."""
        folder = Path(config.hydra.runtime.output_dir)
        state = read_state(folder)
        if state is None or not state.own or state.state == "running":
            return
        try:
            tell_progress(folder.parent, *_tracking(config))
        except LungtlError as error:
            log.warning("the sweep's own run is not up to date: %s", error)


def start_sweep(config: Any) -> Started:
    """Print the plan, open the parent run and write parent.json."""
    from omegaconf import OmegaConf

    from lungtl.sweeps.plan import grid, print_plan, started_before
    from lungtl.tracking.identity import FOLDER, run_of
    from lungtl.tracking.tracker import MlflowTracker, NoTracker, git_tags

    check_installed(config.hydra.launcher["_target_"])
    sweep = Path(config.hydra.sweep.dir).resolve()
    sweep.mkdir(parents=True, exist_ok=True)
    earlier, planned = started_before(sweep), grid(config)
    print_plan(sweep, earlier if planned is None else planned, config.sweep.retry)
    if planned is None:
        total = max(len(earlier), config.hydra.sweeper.get("n_trials") or 0)
    else:
        total = len({child.folder for child in [*earlier, *planned]})
    tracker: Tracker = NoTracker()
    if config.tracking.enabled:
        tracking, data_dir = _tracking(config)
        name = str(config.sweep.name or config.name or f"sweep {sweep.name}")
        own = {"lungtl.kind": "sweep", FOLDER: str(sweep)}
        run_id = parent_of(sweep) or run_of(tracking, data_dir, name, own)
        tracker = MlflowTracker(tracking, data_dir, name, run_id=run_id)
        tracker.tags({**own, **git_tags(), "sweep": sweep.name, "lungtl.grid": " ".join(config.hydra.overrides.task)})
        composed = OmegaConf.masked_copy(config, [key for key in config if key != "hydra"])
        (sweep / CONFIG).write_text(OmegaConf.to_yaml(composed))
        tracker.artifacts(sweep / CONFIG)
    write_parent(sweep, tracker.run_id, total, config.trainer.monitor)
    return Started(sweep, tracker, None if planned is None else tuple(child.folder for child in planned))


def end_sweep(status: str) -> bool:
    """Print the comparison, close the parent run and say what did not finish; once.

    Args:
        status: how the launching of the children ended: FINISHED, FAILED or KILLED.

    Returns:
        Whether a sweep had begun.

    Raises:
        LungtlError: all were launched, and some did not finish.
    """
    from lungtl.report import REPORT

    if not _started:
        return False
    started = _started.pop()
    sweep, tracker, unfinished = started.folder, started.tracker, started.unfinished()
    now = progress(sweep)
    written = _report(sweep, print_only=not now.done)
    try:
        tracker.metrics(metrics_of(now), step=now.done + now.failed)
        tracker.tags(tags_of(sweep, now))
        if (sweep / MULTIRUN).is_file():
            tracker.artifacts(sweep / MULTIRUN)
        for path in written:
            tracker.artifacts(path, REPORT)
        tracker.close("FAILED" if unfinished and status == "FINISHED" else status)
    except LungtlError as error:
        log.error("the sweep's own run is not up to date: %s", error)
    again = f"sweep.name={sweep.name}"
    if now.left:
        log.info("%d of the sweep's runs are left; the same command with %s goes on", now.left, again)
    names = _names(sweep)
    if now.best is not None:
        log.info(
            "best on validation: %s; next: python -m lungtl.register run=%s",
            names.get(now.best, now.best.name), run_reference(now.best),
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
    from lungtl.report import differing

    everyone = {folder: state for folder in children(sweep) if (state := read_state(folder)) is not None}
    names = differing([" ".join(state.overrides) for state in everyone.values()]) if everyone else []
    return dict(zip(everyone, names, strict=True))


def _report(sweep: Path, print_only: bool) -> list[Path]:
    """Print and write the comparison; the files, or none and the reason in the log.

    Whatever goes wrong with it, the runs are there, and their parent has to be closed.
    """
    from lungtl.report import print_sweep, write_report

    try:
        print_sweep(sweep)
        return [] if print_only else write_report(sweep)
    except LungtlError as error:
        log.error("no report: %s", error)
    except Exception:
        log.exception("no report")
    return []


def _tracking(config: Any) -> tuple[TrackingConfig, Path]:
    from lungtl.config import TrackingConfig

    return TrackingConfig(**dict(config.tracking)), Path(config.data_dir).expanduser().resolve()
