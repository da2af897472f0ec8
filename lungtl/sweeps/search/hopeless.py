"""What a trial asks the study while it trains."""

from __future__ import annotations

from pathlib import Path

import optuna

from lungtl.sweeps.search.names import STUDY
from lungtl.sweeps.search.study import PRUNING, storage


def is_hopeless(sweep: Path, number: int, value: float, epoch: int) -> bool:
    """Tell a trial's value at an epoch (from 0); True where it is worse than the median of the others' best by then."""
    study = optuna.load_study(study_name=STUDY, storage=storage(sweep), sampler=optuna.samplers.RandomSampler())
    rule = study.user_attrs[PRUNING]
    study.pruner = (
        optuna.pruners.NopPruner()
        if rule is None
        else optuna.pruners.MedianPruner(rule["startup_trials"], rule["warmup_epochs"])
    )
    (trial_id,) = (trial._trial_id for trial in study.get_trials(deepcopy=False) if trial.number == number)
    trial = optuna.Trial(study, trial_id)
    trial.report(value, epoch)
    return bool(trial.should_prune())  # numpy's, else
