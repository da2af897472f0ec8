"""`python -m lungtl.reproduce run=RUN`: verify data and weights, retrain, compare the metrics."""

from __future__ import annotations

import json
import logging
import os
import shlex
import subprocess
import sys
from pathlib import Path

from lungtl.runs.folder import METRICS, PRUNED, find_run, read_record
from lungtl.runs.resuming import config_dirs, own_overrides, quoted
from lungtl.settings import command_line
from lungtl.settings.composing import compose_config, recorded_folders
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import is_reproduced, override_key
from lungtl.settings.parent_process import PARENT
from lungtl.settings.schema import ReproduceConfig, TrainConfig

log = logging.getLogger(__name__)
REPRODUCTION = "reproduction.json"


def run(config: ReproduceConfig) -> None:
    """Verify, retrain, compare; prints the new run's folder."""
    from lungtl.runs.reproduction import (
        check_config,
        check_features,
        check_parts,
        check_same,
        compare_environments,
        compare_metrics,
        current_environment,
        read_json,
    )

    earlier = find_run(config.run, config.data_dir)
    record = read_record(earlier)
    if (earlier / PRUNED).is_file():
        raise LungtlError(f"{earlier} has no metrics because a search pruned it; give a run that was not pruned")
    if not (earlier / METRICS).is_file():
        raise LungtlError(
            f"{earlier} has no {METRICS} because it did not finish; resume it: lungtl train resume={earlier}"
        )
    data_dir, name = quoted(str(config.data_dir)), quoted(f"again: {record['name']}")
    overrides = [*reproduced_overrides(own_overrides(earlier)), f"data_dir={data_dir}", f"name={name}"]
    command = [sys.executable, "-m", "lungtl.train", *config_dirs(earlier), *overrides]
    log.info("command: %s", shlex.join(["python", *command[1:]]))
    composed = compose_config("train", TrainConfig, overrides, recorded_folders(earlier))
    check_config(earlier, composed)
    check_parts(record, composed)
    environment, uncommitted = compare_environments(earlier, current_environment(composed))
    store, classifier = check_same(record, composed)
    features = check_features(composed, store, classifier) if config.features == "anew" else None
    environ = {**os.environ, PARENT: str(os.getpid())}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environ)
    if done.returncode != 0:
        raise LungtlError(f"the run failed this time (exit code {done.returncode}); see its own message above")
    folder = Path(done.stdout.strip())
    compared = compare_metrics(read_json(earlier / METRICS), read_json(folder / METRICS))
    differing = {name: pair for name, pair in compared.items() if not _equal(*pair, config.tolerance)}
    report = {
        "run": str(record["mlflow_run_id"] or earlier.name), "tolerance": config.tolerance, "metrics": len(compared),
        "differing": differing, "environment": environment, "uncommitted": uncommitted,
        "features": config.features, "features_deviation": features,
    }  # fmt: skip
    (folder / REPRODUCTION).write_text(json.dumps(report, indent=2))
    print(folder)
    if differing:
        name, (then, now) = next(iter(differing.items()))
        raise LungtlError(
            f"not reproduced: {len(differing)} of {len(compared)} metrics differ by more than {config.tolerance:g}, "
            f"the first is {name}: {then} then, {now} now; see {folder / REPRODUCTION} and the differences above"
        )
    log.info("reproduced: %d of %d metrics agree within %g", len(compared), len(compared), config.tolerance)


def reproduced_overrides(overrides: list[str]) -> list[str]:
    """The overrides of a run without those that say where and how it was started."""
    return [line for line in overrides if is_reproduced(override_key(line))]


def _equal(then: float | None, now: float | None, tolerance: float) -> bool:
    if then is None or now is None:
        return then is now
    return abs(then - now) <= tolerance


if __name__ == "__main__":
    command_line.main("reproduce", ReproduceConfig, run)
