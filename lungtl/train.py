"""`python -m lungtl.train`: compose an experiment, train it, evaluate it on held-out patients, track it."""

from __future__ import annotations

import shlex
from pathlib import Path

from lungtl.runs.folder import RECORD, read_record
from lungtl.runs.naming import run_name, sweep_run_name
from lungtl.runs.resuming import check_settings, check_trusted, own_overrides, resumed_command_line
from lungtl.settings import command_line
from lungtl.settings.keys import override_key
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps import jobs


def run(config: TrainConfig) -> float | None:
    """One run, in the folder that Hydra made for it; prints that folder. With `dry_run` prints what would train.

    Returns:
        The monitored validation metric of the best epoch; None for a dry run or a trial that was pruned.
    """
    if config.dry_run:
        from lungtl.training.plan import print_plan

        print_plan(config)
        return None
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lungtl.data.splits import split_bags
    from lungtl.data.store.opening import open_store
    from lungtl.runs.experiment import run_experiment
    from lungtl.sweeps.parent import identity_in_sweep
    from lungtl.sweeps.search.pruning import pruning
    from lungtl.tracking.observer import check_tracking, track
    from lungtl.training.devices import available_device

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    swept = hydra.mode == RunMode.MULTIRUN
    resume = (config.resume is not None or swept) and (folder / RECORD).is_file()
    earlier = read_record(folder) if resume else {}
    if config.resume is not None:
        check_trusted(config, config.trust)
        config.composed_from(earlier["choices"], own_overrides(folder, config))
    else:
        config.composed_from(hydra.runtime.choices, hydra.overrides.task)
    derived = sweep_run_name(folder.parent, config.overrides) if swept else ""
    name = config.name or earlier.get("name") or derived or run_name(config.choices, config.overrides)

    if resume:
        check_settings(folder, config.model_dump(mode="json"))
    check_tracking(config, folder if resume else None)  # before hours of preparing, like the next line
    available_device(config.trainer.accelerator)
    store = open_store(config)
    split = split_bags(store.bags, config.split, config.trains_on_votes)
    identity = identity_in_sweep(folder) if swept else None
    with track(config, name, folder, earlier.get("mlflow_run_id"), identity) as observer:
        result = run_experiment(config, store, split, folder, name=name, resume=resume, observer=observer,
                                callbacks=pruning(folder, config.trainer.monitor))  # fmt: skip
    if result is not None:
        from lungtl.runs.summary import print_summary

        print_summary(result.metrics, folder, [] if swept else next_steps(config))
    print(folder)
    return None if result is None else float(result.metrics["training"][config.trainer.monitor])


def next_steps(config: TrainConfig) -> list[str]:
    """What to type next, on the data of this run."""
    own = [line for line in config.overrides if override_key(line) not in ("aggregator", "data_dir", "name", "resume")]
    data_dir = f"data_dir={config.data_dir}"
    sweep = shlex.join(["python", "-m", "lungtl.train", "-m", "aggregator=mean,max,attention", *own, data_dir])
    return [
        "next, compare runs in MLflow, or compare aggregators:",
        f"  {shlex.join(['python', '-m', 'lungtl.ui', data_dir])}",
        f"  {sweep}",
    ]


if __name__ == "__main__":
    command_line.main("train", TrainConfig, run, expand=resumed_command_line, jobs=jobs)
