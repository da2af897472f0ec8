"""The study: what Optuna knows of a search's trials, kept in the sweep's folder.

A trial is asked for, launched as a child of the sweep, and told. One that was launched and never told, since the
search was killed, is launched again with the same values under the same number: none is lost, none counts twice.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lungtl.data.store.files import whole_file
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.sweeps.search.names import JOURNAL, LOCK, STUDY, TABLE
from lungtl.sweeps.search.space import OBJECTIVE, Space

STARTED_WITH = "started_with"
PRUNING = "pruning"


@contextmanager
def only_searcher(sweep: Path) -> Iterator[None]:
    """Keep other processes from choosing trials of this sweep.

    Raises:
        LungtlError: one does already.
    """
    lock = FileLock(sweep / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise LungtlError(f"another process searches in {sweep}; wait for it, or give another sweep.name") from error
    try:
        yield
    finally:
        lock.release()


def storage(sweep: Path) -> JournalStorage:
    """Of the study: a file to which processes append, on network file systems too (SQLite does not lock there)."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(sweep / JOURNAL)))


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
    """Create the study, or go on with it.

    Args:
        sweep: the sweep's folder.
        monitor: the validation metric, which is what a trial achieves.
        started_with: what all its trials must share for their values to be comparable.
        sampler: how values are chosen.
        startup_trials: chosen at random before `tpe` learns from them.
        pruning: startup_trials and warmup_epochs of the median rule; None lets every trial end.
        seed: of the sampler.

    Raises:
        UsageError: the study was started with something else.
    """
    study = optuna.create_study(
        storage=storage(sweep), study_name=STUDY, load_if_exists=True,
        direction="maximize" if monitor == "val/auroc" else "minimize",
    )  # fmt: skip
    wanted = {OBJECTIVE: monitor, **started_with}
    had = study.user_attrs.get(STARTED_WITH, wanted)
    for key, value in wanted.items():
        if had.get(key) != value:
            raise UsageError(
                f"the search in {sweep} was started with another {key} ({had.get(key)}, now {value}): its trials would "
                "not compare; give another sweep.name"
            )
    study.set_user_attr(STARTED_WITH, wanted)
    study.set_user_attr(PRUNING, dict(pruning) if pruning is not None else None)
    seed += len(study.trials)  # the seed alone would draw the first trials' values once more
    if sampler == "tpe":
        # constant_liar: trials that train at the same time shall not all try the same place
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=startup_trials, constant_liar=True, seed=seed)
    else:
        study.sampler = optuna.samplers.RandomSampler(seed=seed)
    return study


class Trials:
    """The trials that are to be launched, in turn: first those that were launched before and never told.

    Args:
        study: of the search.
        space: what it may choose.
        n_trials: of the study, those of earlier calls included.
        retry: trials that failed are tried again instead of being counted.
    """

    def __init__(self, study: optuna.Study, space: Space, n_trials: int, *, retry: bool) -> None:
        self.study = study
        self.space = space
        every = study.get_trials(deepcopy=False)
        for trial in every:
            if trial.state == TrialState.RUNNING and not self._is_chosen(trial):
                study.tell(trial.number, state=TrialState.FAIL)  # killed while its values were chosen
        every = [trial for trial in every if self._is_chosen(trial)]
        failed = [trial.params for trial in every if trial.state == TrialState.FAIL]
        others = [trial.params for trial in every if trial.state != TrialState.FAIL]
        self.unfinished: list[optuna.Trial | FrozenTrial] = [t for t in every if t.state == TrialState.RUNNING]
        self.again = [p for i, p in enumerate(failed) if p not in others and p not in failed[:i]] if retry else []
        self.left = max(0, n_trials - len(others) - (0 if retry else len(failed)))

    def batch(self, size: int) -> list[optuna.Trial | FrozenTrial]:
        """The next trials, at most so many; none when the search has ended."""
        taken, self.unfinished = self.unfinished[:size], self.unfinished[size:]
        while len(taken) < size and self.left > 0:
            self.left -= 1
            if self.again:
                self.study.enqueue_trial(self.again.pop(0))
            taken.append(self.study.ask(self.space.distributions))
        return taken

    def _is_chosen(self, trial: FrozenTrial) -> bool:
        return trial.params.keys() == self.space.distributions.keys()


def write_table(study: optuna.Study, space: Space, sweep: Path) -> None:
    """Write trials.csv: each trial's state, monitored value, epochs told, and the values that it was given."""
    content = io.StringIO()
    writer = csv.writer(content)
    writer.writerow(["trial", "state", "value", "epochs", *space.distributions])
    for trial in study.get_trials(deepcopy=False):
        given = space.written(trial.params).values()
        writer.writerow([trial.number, trial.state.name.lower(), trial.value, len(trial.intermediate_values), *given])
    with whole_file(sweep / TABLE, sweep) as file:
        file.write(content.getvalue().encode())
