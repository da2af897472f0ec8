"""A sweep on a frozen backbone from the command line, with and without the feature cache.

Run as a program, this is `lungtl train` with a stopwatch: `python -m benchmarks.sweep REPORT ARGUMENTS` writes the
seconds of each part of every run to REPORT, as JSON. Parts may overlap: tracking during training counts in both.
"""

from __future__ import annotations

import functools
import json
import pkgutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from benchmarks.measure import Row, compared

ROOT = Path(__file__).parents[1]
AGGREGATORS, RATES = "aggregator=mean,max,attention,gated_attention", (3e-4, 1e-3, 3e-3)
FIXED = ("dataset.scans=24", "trainer.max_epochs=15", "trainer.patience=null")
OUTSIDE_LIMIT = 5.0
LEAST = 8
"""Target: how many times faster the cached sweep is, at least."""
# parts of a run: name -> the functions that are timed
PARTS = {
    "backbone and weights": ("lungtl.training.build.build_classifier",),
    "features": ("lungtl.training.feature_cache.run_features",),
    "training": ("lungtl.training.fit.fit",),
    "untrained control": ("lungtl.training.untrained.train_untrained",),
    "predictions": ("lungtl.models.inference.predict_bags",),
    "metrics and figures": ("lungtl.runs.scoring.write_results",),
    "bundle": ("lungtl.bundle.save_bundle",),
    "tracking": tuple(f"lungtl.tracking.tracker.MlflowTracker.{m}"
                      for m in ("__init__", "params", "tags", "metrics", "epoch", "artifacts", "close")),
}  # fmt: skip
Job = dict[str, float]


def compare(*overrides: str) -> list[Row]:
    """The sweep with and without the cache, then the seconds of each part of a cached run.

    Without the cache, only one of the three learning rates is run: all cost the same, so the others are extrapolated.
    """
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder)
        subprocess.run([sys.executable, "-m", "lungtl.prepare", f"data_dir={data_dir}", FIXED[0]], check=True, cwd=ROOT)
        shared = (AGGREGATORS, *FIXED, *overrides)
        cached, jobs = _swept(data_dir, *shared, f"optimizer.lr={','.join(map(str, RATES))}")
        third, some = _swept(data_dir, *shared, f"optimizer.lr={RATES[0]}", "cache.enabled=false")
    uncached = third + (len(RATES) - 1) * sum(job["all"] for job in some)
    against = f"without the cache, {len(some)} runs of which count {len(RATES)} times"
    rows = [compared(f"sweep of {len(jobs)} runs on a frozen backbone, cached", cached, against, uncached, LEAST)]
    outside = [job["all"] - job["training"] - job["untrained control"] for job in jobs]  # the control trains, too
    rows.append(compared("a run without its training, median", statistics.median(outside), "target", OUTSIDE_LIMIT, 1))
    rows.append(compared("the first run, with imports and features", outside[0], "target", OUTSIDE_LIMIT, 1))
    whole = statistics.median(job["all"] for job in jobs)
    for part in PARTS:
        seconds = statistics.median(job[part] for job in jobs)
        rows.append(compared(f"of a run: {part}", seconds, "the whole run", whole))
    return rows


def _swept(data_dir: Path, *arguments: str) -> tuple[float, list[Job]]:
    """Seconds of the command, and of its runs."""
    report = data_dir / "jobs.json"
    command = [sys.executable, "-m", "benchmarks.sweep", str(report), "-m", f"data_dir={data_dir}", *arguments]
    start = time.perf_counter()
    subprocess.run(command, check=True, cwd=ROOT)
    seconds = time.perf_counter() - start
    return seconds, json.loads(report.read_text())


def main() -> None:
    """Run the sweep and time its parts."""
    from lungtl import train
    from lungtl.settings import command_line
    from lungtl.settings.schema import TrainConfig

    report, jobs = Path(sys.argv.pop(1)), []

    def job(config: TrainConfig) -> None:
        seconds: Job = dict.fromkeys(PARTS, 0.0)
        start = time.perf_counter()
        with ExitStack() as watches:
            for part, functions in PARTS.items():
                for name in functions:
                    watches.enter_context(patch(name, _watched(pkgutil.resolve_name(name), part, seconds)))
            train.run(config)
        seconds["all"] = time.perf_counter() - start
        jobs.append(seconds)
        report.write_text(json.dumps(jobs))

    command_line.main("train", TrainConfig, job)


def _watched(function: Callable[..., Any], part: str, seconds: Job) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[part] += time.perf_counter() - start

    return watched


if __name__ == "__main__":
    main()
