"""Pool the folds of a cross-validation: `pooled/` in the sweep's folder.

All folds of a setting with one pair of seeds are a repeat, which is pooled into one set of predictions. Those of all
settings together, where they are one model, are a repeat as well: each case has the mean of its predictions.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.data.tables import write_table
from lungtl.evaluation.assess import score_with_covariates
from lungtl.evaluation.covariates import WITH_COVARIATES
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.figures import roc, save
from lungtl.evaluation.formatting import text_table
from lungtl.evaluation.metrics import score
from lungtl.evaluation.pooling import (
    CONTROL,
    Fold,
    mean_of_settings,
    over_folds,
    pool_folds,
    pooled_gain,
    shared_calibration,
)
from lungtl.runs.folder import METRICS, read_record
from lungtl.settings.errors import LungtlError
from lungtl.sweeps.folds.page import write_page
from lungtl.sweeps.folds.runs import FoldRun, find_runs, read_folds
from lungtl.sweeps.folds.tables import markdown, table_row, terminal_rows

log = logging.getLogger(__name__)
POOLED, PREDICTIONS, OUT_OF_FOLD = "pooled", "oof_predictions.csv", "out_of_fold"
ENSEMBLE = "ensemble"
"""The setting that is the mean of all others."""


def pool_sweep(sweep: Path, ensemble: bool = False) -> None:
    """Pool every repeat whose folds all finished and print the results' folder; log the other repeats.

    Args:
        sweep: the folder of the runs.
        ensemble: pool the mean of all settings, too.

    The sweep's folder gets `pooled/` with report.html, table.csv, README.md and, for each repeat, a folder with
    oof_predictions.csv, metrics.json and roc.png.

    Raises:
        LungtlError: some repeats, or the mean of the settings, could not be pooled.
    """
    repeats: dict[tuple[str, int, int], list[FoldRun]] = {}
    for run in find_runs(sweep):
        repeats.setdefault((run.setting, run.split_seed, run.seed), []).append(run)
    documents: list[dict[str, Any]] = []
    by_seeds: dict[tuple[int, int], list[list[FoldRun]]] = {}  # the repeats of all settings
    for number, repeat in enumerate(repeats.values()):
        first = repeat[0]
        try:
            documents.append(pool_repeat(sweep / POOLED / str(number), repeat, read_folds(repeat)))
            by_seeds.setdefault((first.split_seed, first.seed), []).append(repeat)
        except LungtlError as error:
            log.error("not pooled: %s split.seed=%d seed=%d: %s", first.name, first.split_seed, first.seed, error)
    no_mean: LungtlError | None = None
    if ensemble and len(documents) == len(repeats):
        for settings in (settings for settings in by_seeds.values() if len(settings) > 1):
            try:
                documents.append(pool_settings(sweep / POOLED / str(len(documents)), settings))
            except LungtlError as error:
                no_mean = LungtlError(f"the mean of the settings is not pooled: {error}")
    if documents:
        write_table(pd.DataFrame([table_row(document) for document in documents]), sweep / POOLED / "table.csv")
        (sweep / POOLED / "README.md").write_text(markdown(documents), encoding="utf-8")
        page = write_page(documents, sweep, sweep / POOLED)
        log.info("%s\nreport  %s", text_table(terminal_rows(documents)), page)
        print(sweep / POOLED)
    if len(documents) < len(repeats):
        raise LungtlError(
            f"{len(repeats) - len(documents)} of {len(repeats)} settings and seeds are not pooled; see the errors above"
        )
    if no_mean is not None:  # raised last: the settings alone have their results
        raise no_mean


def pool_settings(out: Path, settings: list[list[FoldRun]]) -> dict[str, Any]:
    """Write the pooled results of the mean of several settings, like `pool_repeat`; its name is what they share.

    Raises:
        LungtlError: the settings have other folds, or other cases in a fold.
    """
    names = [repeat[0].name.split() for repeat in settings]
    name = " ".join([*(word for word in names[0] if all(word in other for other in names)), ENSEMBLE])
    runs = [replace(run, setting=ENSEMBLE, name=name) for repeat in settings for run in repeat]
    if len(counts := {run.folds for run in runs}) > 1:
        raise LungtlError(f"the settings have {' and '.join(map(str, sorted(counts)))} folds; expected one split.folds")
    return pool_repeat(out, runs, [mean_of_settings(same) for same in zip(*map(read_folds, settings), strict=True)])


def pool_repeat(out: Path, runs: list[FoldRun], folds: list[Fold]) -> dict[str, Any]:
    """Write the pooled results of one repeat; returns the content of its metrics.json.

    Args:
        out: gets the files.
        runs: of the repeat, or of all settings.
        folds: their results, by fold.

    Raises:
        LungtlError: the folds do not test every patient of one store once.
    """
    first = runs[0]
    pooled = pool_folds(folds)
    labels, model, patients = pooled["label"], pooled["probability"], pooled["patient_id"]
    columns = [name for name in pooled.columns if name.startswith(CONTROL)]
    controls = {name.removeprefix(CONTROL): pooled[name].to_numpy() for name in columns}
    kind, n = shared_calibration(folds), first.resamples
    records = [read_record(run.folder) for run in runs]
    if len({record["store_fingerprint"] for record in records}) > 1:
        raise LungtlError("the data changed between the folds (different store fingerprints); rerun all folds")
    document = evaluation_document(
        split=OUT_OF_FOLD,
        bag=score(labels, model, patients, resamples=n),
        calibrated={} if kind == "none" else {kind: score(labels, pooled["calibrated"], patients, resamples=n)},
        controls={name: score(labels, p, patients, resamples=n) for name, p in controls.items()},
        gains={name: pooled_gain(labels, model, p, patients) for name, p in controls.items()},
        with_covariates=None
        if WITH_COVARIATES not in pooled
        else score_with_covariates(pooled, controls, folds[0].covariates, resamples=n, compare=pooled_gain),
        folds=over_folds(folds), setting=first.name, setting_key=first.setting, split_seed=first.split_seed,
        seed=first.seed, pooled=out.name, runs=[run.folder.name for run in runs],
        store=records[0]["store"], store_fingerprint=records[0]["store_fingerprint"],
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write_table(pooled, out / PREDICTIONS)
    (out / METRICS).write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    save(roc(labels, model, patients, controls, resamples=n), out / "roc.png")
    return document
