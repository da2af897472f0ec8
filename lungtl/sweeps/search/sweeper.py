"""The sweeper: Optuna chooses values, Hydra's launcher runs them, the study records the results.

Hydra imports this module at every start of a command, so Optuna is imported only when a search begins.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from lungtl.settings.checks import validate
from lungtl.settings.errors import UsageError
from lungtl.settings.keys import container_key
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps.datasets import record_datasets
from lungtl.sweeps.installed import check_installed

log = logging.getLogger(__name__)


@dataclass
class SearchSweeper(Sweeper):
    """A sweep whose values Optuna chooses; continues a search with the same sweep.name.

    The fields are the settings of conf/hydra/sweeper/optuna.yaml.
    """

    n_trials: int
    batch: int | Literal["auto"]
    sampler: Literal["tpe", "random"]
    startup_trials: int
    pruning: Mapping[str, int] | None
    seed: int
    params: Mapping[str, Any] | None  # key -> its values, written as Hydra sweeps

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context: HydraContext = hydra_context
        self.config: DictConfig = config
        self.launcher: Launcher = Plugins.instance().instantiate_launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        check_installed(self.config.hydra.sweeper["_target_"])
        self._check_settings()
        from lungtl.sweeps.search.space import read_space
        from lungtl.sweeps.search.study import Trials, launch, log_summary, open_study, search_lock, write_table

        loader = self.hydra_context.config_loader
        lines = [*(f"{key}={value}" for key, value in (self.params or {}).items()), *arguments]
        space = read_space(OverridesParser.create(config_loader=loader).parse_overrides(lines))
        corners = [self._checked(line) for line in space.corners()]
        folder = Path(self.config.hydra.sweep.dir)
        folder.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, folder / "multirun.yaml")
        record_datasets(folder, corners)
        started_with = {
            "search space": dict(space.texts),
            "hash of the other settings": container_key(loader.load_sweep_config(self.config, list(space.fixed))),
        }
        size = self._batch_size()
        with search_lock(folder):
            study = open_study(
                folder, self.config.trainer.monitor, started_with, sampler=self.sampler,
                startup_trials=self.startup_trials, pruning=self.pruning, seed=self.seed,
            )  # fmt: skip
            trials = Trials(study, space, self.n_trials, retry=self.config.sweep.retry)
            log.info(
                "search: %d trials so far, %d to resume, %d new", len(study.trials), len(trials.unfinished), trials.left
            )
            while batch := trials.batch(size):
                launch(self.launcher, study, space, batch)
                write_table(study, space, folder)
            log_summary(study, space)

    def _check_settings(self) -> None:
        # not in the constructor, where Hydra would wrap the error
        if self.n_trials < 1:
            raise UsageError(f"hydra.sweeper.n_trials={self.n_trials}: give 1 or more")
        if self.sampler not in ("tpe", "random"):
            raise UsageError(f"hydra.sweeper.sampler={self.sampler}: unknown sampler; give tpe or random")
        if self.config.dry_run:
            raise UsageError("dry_run=true: a search needs the results of its runs; omit hydra/sweeper=optuna")

    def _batch_size(self) -> int:
        size = self.batch
        if size == "auto":
            size = self.config.hydra.launcher.get("n_jobs") or 1
        if size == -1:  # joblib: one process per core
            size = os.cpu_count() or 1
        if size < 1:
            raise UsageError(f"hydra.sweeper.batch={size}: give 1 or more")
        return int(size)

    def _checked(self, line: list[str]) -> DictConfig:
        """The config of a trial without Hydra's section; raises UsageError if it is not valid."""
        try:
            composed = self.hydra_context.config_loader.load_sweep_config(self.config, line)
            with open_dict(composed):
                del composed["hydra"]
            validate(TrainConfig, composed)
        except HydraException as error:
            raise UsageError(f"hydra.sweeper.params: {str(error).strip().splitlines()[0]}") from error
        return composed
