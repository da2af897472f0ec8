"""The sweeper: asks the study for values, has Hydra's launcher run them, tells the study what came of it.

Hydra imports this module at every start of a command, so that Optuna is imported when a search begins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hydra.plugins.sweeper import Sweeper

from lungtl.settings.errors import UsageError

if TYPE_CHECKING:
    import optuna
    from hydra.core.utils import JobReturn
    from hydra.plugins.launcher import Launcher
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig
    from optuna.trial import FrozenTrial

    from lungtl.sweeps.search.space import Space

log = logging.getLogger(__name__)


class SearchSweeper(Sweeper):
    """A sweep whose values Optuna chooses; goes on when a sweep of the same name exists.

    Args:
        n_trials: of the study, those of earlier calls included.
        batch: trials that the launcher gets at once; auto: as many as it has processes where it says so, else one.
        sampler: how values are chosen: tpe, random.
        startup_trials: chosen at random before tpe learns from them.
        pruning: startup_trials and warmup_epochs of the median rule; None lets every trial end.
        seed: of the sampler.
        params: key -> what may be chosen, as Hydra writes sweeps.
    """

    def __init__(
        self,
        n_trials: int,
        batch: int | Literal["auto"],
        sampler: Literal["tpe", "random"],
        startup_trials: int,
        pruning: Mapping[str, int] | None,
        seed: int,
        params: Mapping[str, Any] | None,
    ) -> None:
        self.n_trials = n_trials
        self.batch = batch
        self.sampler = sampler
        self.startup_trials = startup_trials
        self.pruning = dict(pruning) if pruning is not None else None
        self.seed = seed
        self.params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        from hydra.core.plugins import Plugins

        self.hydra_context: HydraContext = hydra_context
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        from hydra.core.override_parser.overrides_parser import OverridesParser
        from omegaconf import OmegaConf

        from lungtl.sweeps.search.extras import check_installed

        check_installed(self.config.hydra.sweeper["_target_"])
        self._check_settings()
        from lungtl.sweeps.search.space import read_space
        from lungtl.sweeps.search.study import Trials, only_searcher, open_study, write_table

        loader = self.hydra_context.config_loader
        written = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        space = read_space(OverridesParser.create(config_loader=loader).parse_overrides(written))
        for line in space.corners():
            self._check(line)
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        size = self._batch_size()
        with only_searcher(folder):
            study = open_study(
                folder, self.config.trainer.monitor, self._started_with(space), sampler=self.sampler,
                startup_trials=self.startup_trials, pruning=self.pruning, seed=self.seed,
            )  # fmt: skip
            trials = Trials(study, space, self.n_trials, retry=self.config.sweep.retry)
            log.info(
                "search: %d trials so far, %d to go on with, %d new ones",
                len(study.trials), len(trials.unfinished), trials.left,
            )  # fmt: skip
            while batch := trials.batch(size):
                self._run(study, space, batch)
                write_table(study, space, folder)
            _say_best(study, space)

    def _run(self, study: optuna.Study, space: Space, batch: Sequence[optuna.Trial | FrozenTrial]) -> None:
        """Launch trials and tell the study; those with the same values are launched once."""
        from lungtl.sweeps.search.names import TRIAL
        from lungtl.sweeps.search.result import tell

        numbers: dict[tuple[str, ...], list[int]] = {}
        for trial in batch:
            numbers.setdefault(tuple(space.overrides(trial.params)), []).append(trial.number)
        jobs = [[*line, f"+hydra.job.env_set.{TRIAL}='{same[0]}'"] for line, same in numbers.items()]
        results: Sequence[JobReturn] = self.launcher.launch(jobs, initial_job_idx=batch[0].number)
        for same, result in zip(numbers.values(), results, strict=True):
            for number in same:
                tell(study, number, result)

    def _check_settings(self) -> None:
        # not in __init__: Hydra would wrap the error in one of its own
        if self.n_trials < 1:
            raise UsageError(f"hydra.sweeper.n_trials={self.n_trials}: give 1 or more")
        if self.sampler not in ("tpe", "random"):
            raise UsageError(f"hydra.sweeper.sampler={self.sampler}: no such sampler; give tpe or random")
        if self.config.dry_run:
            raise UsageError("dry_run=true: a search compares what its runs achieve; leave hydra/sweeper=optuna out")

    def _batch_size(self) -> int:
        size = self.batch
        if size == "auto":
            size = self.config.hydra.launcher.get("n_jobs") or 1
        if size == -1:  # joblib's word for one a core
            size = os.cpu_count() or 1
        if size < 1:
            raise UsageError(f"hydra.sweeper.batch={size}: give 1 or more")
        return int(size)

    def _check(self, line: list[str]) -> None:
        """Compose a trial's config and check it; raises UsageError."""
        from hydra.errors import HydraException

        from lungtl.settings.composing import validate
        from lungtl.settings.schema import TrainConfig

        try:
            validate(TrainConfig, self._composed(line))
        except HydraException as error:
            raise UsageError(f"hydra.sweeper.params: {str(error).strip().splitlines()[0]}") from error

    def _composed(self, line: Sequence[str]) -> DictConfig:
        from omegaconf import open_dict

        composed = self.hydra_context.config_loader.load_sweep_config(self.config, list(line))
        with open_dict(composed):
            del composed["hydra"]
        return composed

    def _started_with(self, space: Space) -> dict[str, Any]:
        from lungtl.settings.keys import container_key

        return {
            "search space": dict(space.texts),
            "hash of the other settings": container_key(self._composed(space.fixed)),
        }


def _say_best(study: optuna.Study, space: Space) -> None:
    from optuna.trial import TrialState

    from lungtl.sweeps.search.space import OBJECTIVE
    from lungtl.sweeps.search.study import STARTED_WITH

    counts = {state: sum(trial.state == state for trial in study.trials) for state in TrialState}
    log.info("search: %s", ", ".join(f"{count} {state.name.lower()}" for state, count in counts.items() if count))
    if counts[TrialState.COMPLETE]:
        best = study.best_trial
        log.info(
            "best on the validation split: trial %d, %s=%.4g: %s",
            best.number, study.user_attrs[STARTED_WITH][OBJECTIVE], best.value,
            " ".join(f"{key}={text}" for key, text in space.written(best.params).items()),
        )  # fmt: skip
