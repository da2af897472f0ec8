"""`python -m lungtl.train`: compose an experiment, train it, evaluate it on held-out patients, track it."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.evaluation.formatting import format_estimate, format_number
from lungtl.runs.epochs import duration
from lungtl.runs.folder import PRUNED, RECORD, place_of_data, places, read_record
from lungtl.runs.log import logged
from lungtl.runs.naming import run_name, sweep_run_name
from lungtl.runs.resuming import check_settings, check_trusted, own_overrides, resumed_command_line
from lungtl.settings import command_line
from lungtl.settings.keys import override_key
from lungtl.settings.schema import TrainConfig
from lungtl.settings.typed import assigned, typed
from lungtl.sweeps import jobs

if TYPE_CHECKING:
    from lungtl.runs.experiment import Result

log = logging.getLogger(__name__)


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

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    swept = hydra.mode == RunMode.MULTIRUN
    quiet = swept and not config.verbose
    if config.resume is None:
        config.composed_from(hydra.runtime.choices, hydra.overrides.task)
    else:
        check_trusted(config, config.trust)
        config.composed_from(read_record(folder)["choices"], own_overrides(folder, config))
    name, start = sweep_run_name(folder.parent, config.overrides) if swept else "", time.monotonic()
    with logged(folder, quiet=quiet):
        log.info("folder: %s", folder)
        try:
            result = _train(config, folder, swept, name)
        except KeyboardInterrupt as interrupt:
            raise KeyboardInterrupt(_how_to_continue(config, folder, str(interrupt) or "stopped")) from interrupt
        if result is not None:
            from lungtl.runs.summary import print_summary

            steps = [] if swept else next_steps(config, folder)
            print_summary(result.metrics, folder, steps, verbose=config.verbose)
    if quiet:
        log.info("%s  %s", _swept_line(folder, name, result), duration(time.monotonic() - start))
    print(folder)
    return None if result is None else float(result.metrics["training"][config.trainer.monitor])


def _train(config: TrainConfig, folder: Path, swept: bool, name_in_sweep: str) -> Result | None:
    from lungtl.data.splits import split_bags
    from lungtl.data.store.opening import open_store
    from lungtl.runs.experiment import run_experiment
    from lungtl.sweeps.parent import identity_in_sweep
    from lungtl.sweeps.search.pruning import pruning
    from lungtl.tracking.observer import check_tracking, track
    from lungtl.training.devices import available_device

    resume = (config.resume is not None or swept) and (folder / RECORD).is_file()
    earlier = read_record(folder) if resume else {}
    name = config.name or earlier.get("name") or name_in_sweep or run_name(config.choices, config.overrides)

    if resume:
        check_settings(folder, config.model_dump(mode="json"))
    check_tracking(config, folder if resume else None)  # before hours of preparing, like the next line
    available_device(config.trainer.accelerator)
    store = open_store(config)
    split = split_bags(store.bags, config.split, config.trains_on_votes)
    identity = identity_in_sweep(folder) if swept else None
    with track(config, name, folder, earlier.get("mlflow_run_id"), identity) as observer:
        return run_experiment(config, store, split, folder, name=name, resume=resume, observer=observer,
                              callbacks=pruning(folder, config.trainer.monitor))  # fmt: skip


def next_steps(config: TrainConfig, folder: Path) -> list[str]:
    """What to type next, on the data of this run: see it in MLflow, compare aggregators, evaluate it."""
    omitted = ("aggregator", "data_dir", "name", "resume", "verbose")
    own = [line for line in config.overrides if override_key(line) not in omitted]
    sweep = typed("train", "-m", "aggregator=mean,max,attention", *own, *place_of_data(config.data_dir))
    place = places(config.data_dir, config.tracking)
    steps = [*([typed("ui", *place)] if config.tracking.enabled else []), sweep]
    if not any(override_key(line) == "experiments" for line in config.overrides):  # which may choose the dataset
        keys = {line: override_key(line) for line in config.overrides}
        shared = [line for line, key in keys.items() if key in ("tracking", "trust") or key.split(".")[0] == "dataset"]
        steps.append(typed("evaluate", assigned("model", folder), *shared, *place))
    return steps


def _swept_line(folder: Path, name: str, result: Result | None) -> str:
    """`run 3/6  max seed=1  AUROC 0.873 [0.760, 0.958]  val 0.851`: on the test and validation split."""
    from lungtl.sweeps.parent import progress

    now = progress(folder.parent)  # this run is still among those that are left
    total = now.done + now.failed + now.left
    values: dict[str, Any] = {} if result is None else result.metrics["training"]
    scores = "pruned" if (folder / PRUNED).is_file() else "no results"
    if result is not None:
        scores = f"AUROC {format_estimate(result.metrics['bag']['metrics']['auroc'])}"
    if values.get("val_auroc") is not None:
        scores += f"  val {format_number(values['val_auroc'])}"
    return f"run {now.done + now.failed + 1}/{total}  {name or folder.name}  {scores}"


def _how_to_continue(config: TrainConfig, folder: Path, stopped: str) -> str:
    if not (folder / RECORD).is_file():
        return f"{stopped} before training"
    steps = typed("train", assigned("resume", folder), *places(config.data_dir, config.tracking))
    return f"{stopped}; to continue: {steps}"


if __name__ == "__main__":
    command_line.main("train", TrainConfig, run, expand=resumed_command_line, jobs=jobs)
