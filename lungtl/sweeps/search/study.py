"""The Optuna study of a search, stored in the sweep's folder.

A trial is asked for, launched as a run of the sweep, and its result recorded. If the search is killed in between, the
next call launches the trial again with the same values and number: no trial is lost or counted twice.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
from filelock import FileLock, Timeout
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.trial import FrozenTrial, TrialState

from lungtl.data.store.files import whole_file
from lungtl.data.tables import write_table as write_csv
from lungtl.runs.folder import PRUNED
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sweeps.search import JOURNAL, LOCK, TABLE, TRIAL
from lungtl.sweeps.search.space import OBJECTIVE, Space
from lungtl.sweeps.state import status_of

log = logging.getLogger(__name__)
STUDY = "search"  # name of the only study in a journal
STARTED_WITH = "started_with"
PRUNING = "pruning"


def search_lock(sweep: Path) -> AbstractContextManager[Any]:
    """Let only this process choose trials of a sweep; raises LungtlError if another process does."""
    try:
        return FileLock(sweep / LOCK).acquire(timeout=0)
    except Timeout as error:
        raise LungtlError(f"another process searches in {sweep}; wait for it, or give another sweep.name") from error


def _storage(sweep: Path) -> JournalStorage:
    """A journal file, to which processes append on network file systems too (SQLite does not lock there)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))


def _remove_cut_line(journal: Path) -> None:
    """Remove the last line if a full disk or a power failure cut it: Optuna would append to it and never read on."""
    if not journal.is_file():
        return
    lock = JournalFileSymlinkLock(str(journal))
    lock.acquire()
    try:
        content = journal.read_bytes()
        if content and not content.endswith(b"\n"):
            log.warning("%s: its last line was cut and is removed", journal)
            os.truncate(journal, content.rfind(b"\n") + 1)
    finally:
        lock.release()


def open_study(
    sweep: Path,
    monitor: str,
    started_with: Mapping[str, Any],
    *,
    sampler: Literal["tpe", "random"],
    startup_trials: int,
    pruning: Mapping[str, int] | None,
    seed: int,
) -> optuna.Study:
    """Create the study with the settings of conf/hydra/sweeper/optuna.yaml, or load it to continue.

    The monitored validation metric is the objective; `started_with` is what all trials must share for their values to
    be comparable.

    Raises:
        UsageError: the study was started with something else.
    """
    _remove_cut_line(sweep / JOURNAL)
    study = optuna.create_study(
        storage=_storage(sweep), study_name=STUDY, load_if_exists=True,
        direction="maximize" if monitor == "val/auroc" else "minimize",
    )  # fmt: skip
    current = {OBJECTIVE: monitor, **started_with}
    earlier = study.user_attrs.get(STARTED_WITH, current)
    for key, value in current.items():
        if earlier.get(key) != value:
            raise UsageError(
                f"the search in {sweep} was started with another {key} ({earlier.get(key)}, now {value}), so trials "
                "would not be comparable; give another sweep.name"
            )
    study.set_user_attr(STARTED_WITH, current)
    study.set_user_attr(PRUNING, dict(pruning) if pruning is not None else None)
    seed += len(study.trials)  # the seed alone would draw the values of the first trials again
    if sampler == "tpe":
        # constant_liar keeps simultaneous trials apart
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=startup_trials, constant_liar=True, seed=seed)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study


class Trials:
    """The trials to launch: first those that were launched before and have no result.

    The total `n_trials` includes those of earlier calls; `retry` repeats failed trials instead of counting them.
    """

    def __init__(self, study: optuna.Study, space: Space, n_trials: int, *, retry: bool) -> None:
        self.study = study
        self.space = space
        complete = []
        for trial in study.get_trials(deepcopy=False):
            if trial.params.keys() == space.distributions.keys():
                complete.append(trial)
            elif trial.state == TrialState.RUNNING:  # killed while its values were chosen
                study.tell(trial.number, state=TrialState.FAIL)
        failed = [trial.params for trial in complete if trial.state == TrialState.FAIL]
        counted = [trial.params for trial in complete if trial.state != TrialState.FAIL]
        self.unfinished: list[optuna.Trial | FrozenTrial] = [t for t in complete if t.state == TrialState.RUNNING]
        self.repeated = [p for i, p in enumerate(failed) if p not in counted and p not in failed[:i]] if retry else []
        self.left = max(0, n_trials - len(counted) - (0 if retry else len(failed)))

    def batch(self, size: int) -> list[optuna.Trial | FrozenTrial]:
        """At most `size` trials; none once the search has ended."""
        trials, self.unfinished = self.unfinished[:size], self.unfinished[size:]
        while len(trials) < size and self.left > 0:
            self.left -= 1
            if self.repeated:
                self.study.enqueue_trial(self.repeated.pop(0))
            trials.append(self.study.ask(self.space.distributions))
        return trials


def should_prune(sweep: Path, number: int, value: float, epoch: int) -> bool:
    """Report a trial's value at an epoch (from 0); True if its best is worse than the median of the other trials'."""
    study = optuna.load_study(study_name=STUDY, storage=_storage(sweep), sampler=optuna.samplers.RandomSampler())
    rule = study.user_attrs[PRUNING]
    study.pruner = (
        optuna.pruners.NopPruner()
        if rule is None
        else optuna.pruners.MedianPruner(rule["startup_trials"], rule["warmup_epochs"])
    )
    (trial_id,) = (trial._trial_id for trial in study.get_trials(deepcopy=False) if trial.number == number)
    trial = optuna.Trial(study, trial_id)
    trial.report(value, epoch)
    return bool(trial.should_prune())  # Optuna returns numpy's type


def launch(launcher: Launcher, study: optuna.Study, space: Space, batch: Sequence[optuna.Trial | FrozenTrial]) -> None:
    """Launch trials and record their results; trials with the same values share one run."""
    numbers: dict[tuple[str, ...], list[int]] = {}
    for trial in batch:
        numbers.setdefault(tuple(space.overrides(trial.params)), []).append(trial.number)
    jobs = [[*line, f"+hydra.job.env_set.{TRIAL}='{same[0]}'"] for line, same in numbers.items()]
    results: Sequence[JobReturn] = launcher.launch(jobs, initial_job_idx=batch[0].number)
    for same, result in zip(numbers.values(), results, strict=True):
        for number in same:
            record_result(study, number, result)


def record_result(study: optuna.Study, number: int, job: JobReturn) -> None:
    """Record how a trial ended, given what the launcher returned, unless another process still runs it."""
    assert job.hydra_cfg is not None
    folder = Path(job.hydra_cfg.hydra.runtime.output_dir)
    if job.status != JobStatus.COMPLETED:
        log.error("trial %d failed: %s", number, job._return_value)
        study.tell(number, state=TrialState.FAIL)
        return
    status = status_of(folder)
    if status in ("running", "killed"):  # in another process, which started before this search was killed
        log.warning("trial %d is left to the process that trains it, or to the next call of this search", number)
    elif status == "failed":
        study.tell(number, state=TrialState.FAIL)
    elif (folder / PRUNED).is_file():
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, job.return_value)


def write_table(study: optuna.Study, space: Space, sweep: Path) -> None:
    """Write trials.csv: each trial's state, monitored value, number of reported epochs and chosen values."""
    rows = [
        {"trial": trial.number, "state": trial.state.name.lower(), "value": trial.value,
         "epochs": len(trial.intermediate_values), **space.format(trial.params)}
        for trial in study.get_trials(deepcopy=False)
    ]  # fmt: skip
    with whole_file(sweep / TABLE, sweep) as file:
        write_csv(pd.DataFrame(rows), file)


def log_summary(study: optuna.Study, space: Space) -> None:
    """Log how many trials ended how, and the best one."""
    counts = {state: sum(trial.state == state for trial in study.trials) for state in TrialState}
    log.info("search: %s", ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count))
    if counts[TrialState.COMPLETE]:
        best = study.best_trial
        log.info(
            "best on the validation split: trial %d, %s=%.4g: %s",
            best.number, study.user_attrs[STARTED_WITH][OBJECTIVE], best.value,
            " ".join(f"{key}={text}" for key, text in space.format(best.params).items()),
        )  # fmt: skip
