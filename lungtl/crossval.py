"""`python -m lungtl.crossval`: train every fold of an experiment, then score what they say of their test patients.

It is the sweep `python -m lungtl.train -m split.kind=kfold split.fold=0,1,...` with everything else passed on. What
differs but for fold and seeds is a setting of its own; a repeat is all folds of a setting with one seed.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from lungtl import train
from lungtl.runs.folder import read_record, sweep_dir_of
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import meaning, override_key
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps.folds.jobs import Job, find_jobs, read_folds
from lungtl.sweeps.folds.tables import markdown, table_row

log = logging.getLogger(__name__)
POOLED, PREDICTIONS, OUT_OF_FOLD = "pooled", "oof_predictions.csv", "out_of_fold"
KFOLD = "split.kind=kfold"


def main() -> None:
    """Run the sweep, pool what finished, and print the folder of the pooled results."""
    overrides = sys.argv[1:]
    command_line.plain(lambda: refuse_ours(overrides))
    sys.argv.insert(1, KFOLD)  # a fold's own command line has it then, and lungtl.train can go on with it
    failed = False
    try:
        command_line.main("crossval", TrainConfig, train.run)
    except SystemExit as ended:
        if ended.code != 1:  # wrong usage, or stopped by the user
            raise
        failed = True
    sweep = sweep_dir_of(overrides, os.environ[command_line.STAMP])
    jobs = find_jobs(sweep)
    if jobs:  # none of a dry run
        command_line.plain(lambda: pool_sweep(sweep, jobs))
    sys.exit(1 if failed else 0)


def refuse_ours(overrides: list[str]) -> None:
    """Raise UsageError for an override of what makes the sweep a cross-validation."""
    for override in overrides:
        key, value = override_key(override), override.partition("=")[2]
        if meaning(key).set_by_crossval:
            raise UsageError(f"{override}: crossval runs all folds, into a folder of their own; leave {key} out")
        if key == "split.folds" and not value.isdecimal():
            raise UsageError(f"{override}: a cross-validation has one number of folds; run crossval once for each")


def pool_sweep(sweep: Path, jobs: list[Job]) -> None:
    """Pool every repeat whose folds all finished, and print where; the others are named in the log.

    Args:
        sweep: its folder; gets `pooled/` with table.csv, README.md and, for each repeat, a folder with
            oof_predictions.csv, metrics.json and roc.png.
        jobs: of `find_jobs`.

    Raises:
        LungtlError: not all could be pooled.
    """
    import pandas as pd

    repeats: dict[tuple[str, int, int], list[Job]] = {}
    for job in jobs:
        repeats.setdefault((job.setting, job.split_seed, job.seed), []).append(job)
    documents = []
    for number, members in enumerate(repeats.values()):
        try:
            documents.append(pool_repeat(sweep / POOLED / str(number), members))
        except LungtlError as error:
            job = members[0]
            log.error("not pooled: %s split.seed=%d seed=%d: %s", job.name, job.split_seed, job.seed, error)
    if documents:
        pd.DataFrame([table_row(document) for document in documents]).to_csv(sweep / POOLED / "table.csv", index=False)
        text = markdown(documents)
        (sweep / POOLED / "README.md").write_text(text)
        log.info("%s", text)
        print(sweep / POOLED)
    if len(documents) < len(repeats):
        raise LungtlError(
            f"{len(repeats) - len(documents)} of {len(repeats)} settings and seeds are not pooled; see the errors above"
        )


def pool_repeat(out: Path, jobs: list[Job]) -> dict[str, Any]:
    """Write the pooled results of one repeat; gives the document of its metrics.json.

    Raises:
        LungtlError: a fold did not finish, or the folds do not test every patient of one store once.
    """
    from lungtl.evaluation.document import evaluation_document
    from lungtl.evaluation.figures.canvas import save
    from lungtl.evaluation.figures.curves import roc
    from lungtl.evaluation.metrics import score
    from lungtl.evaluation.pooling import CONTROL, over_folds, pool_folds, pooled_gain, shared_calibration
    from lungtl.evaluation.schema import check_document
    from lungtl.runs.folder import METRICS

    folds, first = read_folds(jobs), jobs[0]
    pooled = pool_folds(folds)
    labels, model, patients = pooled["label"], pooled["probability"], pooled["patient_id"]
    columns = [name for name in pooled.columns if name.startswith(CONTROL)]
    controls = {name.removeprefix(CONTROL): pooled[name].to_numpy() for name in columns}
    kind, n = shared_calibration(folds), first.resamples
    record, *others = (read_record(job.folder) for job in jobs)
    if any(other["store_fingerprint"] != record["store_fingerprint"] for other in others):
        raise LungtlError("the folds were trained on different data: the store changed between them; run all again")
    document = evaluation_document(
        split=OUT_OF_FOLD,
        bag=score(labels, model, patients, resamples=n),
        calibrated={} if kind == "none" else {kind: score(labels, pooled["calibrated"], patients, resamples=n)},
        controls={name: score(labels, p, patients, resamples=n) for name, p in controls.items()},
        gains={name: pooled_gain(labels, model, p, patients) for name, p in controls.items()},
        folds=over_folds(folds), setting=first.name, setting_key=first.setting, split_seed=first.split_seed,
        seed=first.seed, pooled=out.name, runs=[job.folder.name for job in jobs],
        store=record["store"], store_fingerprint=record["store_fingerprint"],
    )  # fmt: skip
    check_document(document)
    out.mkdir(parents=True, exist_ok=True)
    pooled.drop(columns=columns).to_csv(out / PREDICTIONS, index=False)
    (out / METRICS).write_text(json.dumps(document, indent=2, allow_nan=False))
    save(roc(labels, model, patients, controls, resamples=n), out / "roc.png")
    return document


if __name__ == "__main__":
    main()
