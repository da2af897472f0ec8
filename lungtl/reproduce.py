"""`python -m lungtl.reproduce run=RUN`: verify data and weights, retrain, compare the metrics."""

from __future__ import annotations

import json
import logging

from lungtl.runs.folder import METRICS, PRUNED, find_run, how_to_resume, read_json, read_record
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import ReproduceConfig

log = logging.getLogger(__name__)
REPRODUCTION = "reproduction.json"


def run(config: ReproduceConfig) -> None:
    """Verify, retrain, compare; prints the new run's folder."""
    from lungtl.runs.reproduction import (
        check_features,
        check_parts,
        check_same,
        compare_environments,
        compare_metrics,
        current_environment,
        repeated_config,
    )
    from lungtl.tracking.observer import run_tracked

    earlier = find_run(config.run, config.data_dir, METRICS)
    record = read_record(earlier)
    if (earlier / PRUNED).is_file():
        raise LungtlError(f"{earlier} has no metrics because a search pruned it; give a run that was not pruned")
    if not (earlier / METRICS).is_file():
        raise LungtlError(f"{earlier} has no {METRICS} because it did not finish; resume it: {how_to_resume(earlier)}")
    composed = repeated_config(earlier, config.data_dir, config.trust)
    check_parts(record, composed)
    environment, uncommitted = compare_environments(earlier, current_environment(composed))
    store, classifier = check_same(record, composed)
    features = check_features(composed, store, classifier) if config.features == "recomputed" else None
    del classifier
    folder = run_tracked(composed).folder
    compared = compare_metrics(read_json(earlier / METRICS), read_json(folder / METRICS))
    differing = {name: pair for name, pair in compared.items() if not _equal(*pair, config.tolerance)}
    report = {
        "run": str(record["mlflow_run_id"] or earlier.name), "tolerance": config.tolerance, "metrics": len(compared),
        "differing": differing, "environment": environment, "uncommitted": uncommitted,
        "features": config.features, "features_deviation": features,
    }  # fmt: skip
    (folder / REPRODUCTION).write_text(json.dumps(report, indent=2), encoding="utf-8")
    print(folder)
    if differing:
        name, (then, now) = next(iter(differing.items()))
        raise LungtlError(
            f"not reproduced: {len(differing)} of {len(compared)} metrics differ by more than {config.tolerance:g}, "
            f"the first is {name}: {then} then, {now} now; see {folder / REPRODUCTION} and the differences above"
        )
    log.info("reproduced: %d of %d metrics agree within %g", len(compared), len(compared), config.tolerance)


def _equal(then: float | None, now: float | None, tolerance: float) -> bool:
    if then is None or now is None:
        return then is now
    return abs(then - now) <= tolerance


if __name__ == "__main__":
    command_line.main("reproduce", ReproduceConfig, run)
