"""Sweeps' folders as `lungtl.train -m` leaves them, without training anything."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from numpy.typing import NDArray

from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.delong import compare_aurocs
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.metrics import score
from lungtl.sources.base import sha256
from lungtl.sweeps.report.comparable import TestSet, by_test_set
from lungtl.sweeps.report.factors import find_factors, setting_labels
from lungtl.sweeps.report.finished import read_runs

Floats = NDArray[np.float64]

N = 40
LABELS = np.arange(N) % 2
"""Of the test bags and of the validation bags; even patients are negative."""


def probabilities(skill: float, seed: int) -> Floats:
    """Those of a model that tells the classes apart the better the higher its skill."""
    noise = np.random.default_rng(seed).normal(size=N)
    return 1 / (1 + np.exp(-(skill * (2 * LABELS - 1) + noise)))


def bags(side: str, says: Sequence[float] | Floats, truth: Sequence[int] | NDArray[np.int64] = LABELS) -> pd.DataFrame:
    """A table of predictions, a bag a patient."""
    names = [f"{side}{i:03d}" for i in range(len(truth))]
    patients = [f"p-{name}" for name in names]
    return pd.DataFrame({"bag_id": names, "patient_id": patients, "label": truth, "probability": says, "split": side})


def write_run(
    folder: Path,
    test: pd.DataFrame,
    validation: pd.DataFrame | None,
    *,
    choices: Mapping[str, str] | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    split_fingerprint: str = "one",
    store_fingerprint: str = "data",
    own: Floats | None = None,
    training: Mapping[str, float] | None = None,
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Write what a finished run leaves.

    Args:
        folder: of the run.
        test: its test predictions.
        validation: its validation predictions; None for a run that kept none.
        choices: config group -> option, beside a dataset, a backbone and so on that never change.
        settings: section -> key -> value, of its config.
        seed: of the run.
        split_fingerprint: of its split.
        store_fingerprint: of its data.
        own: what its untrained control says of the test bags; None for a run without one.
        training: further keys of `training`.
        environment: what is not as in the other runs in its environment.json.
    """
    folder.mkdir(parents=True)
    all_choices = {"dataset": "phantom", "backbone": "resnet18", "freezing": "frozen", "aggregator": "mean"}
    all_choices |= dict(choices or {})
    config = {"data_dir": str(folder), "seed": seed, "name": None, **(settings or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    train = bags("train", np.zeros(N))
    split = pd.concat([train, test]).assign(diameter_mm=lambda table: 5 + 2.0 * table["label"] + np.arange(len(table)))
    split.drop(columns="probability").to_csv(folder / "split.csv", index=False)
    record = {"name": f"run {folder.name}", "seed": seed, "split_fingerprint": split_fingerprint,
              "store_fingerprint": store_fingerprint, "choices": all_choices,
              "overrides": [f"seed={seed}", f"data_dir={folder}"],
              "split_sha256": sha256(folder / "split.csv")}  # fmt: skip
    (folder / "run.json").write_text(json.dumps(record))
    usual = {"commit": "c0ffee", "changed": False, "device": "cpu", "torch": "2.0", "peft": None}
    (folder / "environment.json").write_text(json.dumps(usual | dict(environment or {})))
    controls = fit_controls(split[split["split"] == "train"]).predict(split[split["split"] == "test"])
    controls |= {} if own is None else {"untrained": own}
    truth, says, patients = test["label"], test["probability"], test["patient_id"]
    document = evaluation_document(
        split="test",
        bag=score(truth, says, patients, resamples=10),
        controls={name: score(truth, p, patients, resamples=10) for name, p in controls.items()},
        gains={name: compare_aurocs(truth, says, p, patients) for name, p in controls.items()},
        training={"epochs": 3, "best_epoch": 1, "val/loss": 0.5, **(training or {})},
    )
    (folder / "metrics.json").write_text(json.dumps(document))
    (test if own is None else test.assign(control_untrained=own)).to_csv(folder / "predictions.csv", index=False)
    if validation is not None:
        validation.to_csv(folder / "validation.csv", index=False)
    return folder


def write_failed(folder: Path, error: str) -> Path:
    """Write what a run leaves that broke."""
    folder.mkdir(parents=True)
    state = {"state": "failed", "number": 99, "overrides": [], "monitor": "val/loss", "error": error}
    (folder / "status.json").write_text(json.dumps(state))
    return folder


def write_grid(sweep: Path, skills: Mapping[tuple[str, str], float], seeds: Sequence[int] = (0, 1)) -> Path:
    """Write a sweep over aggregators and backbones.

    Args:
        sweep: its folder.
        skills: aggregator and backbone -> how well the model tells the classes apart; the same on test and validation.
        seeds: of each of them.
    """
    number = 0
    for (aggregator, backbone), skill in skills.items():
        for seed in seeds:
            write_run(
                sweep / str(number),
                bags("test", probabilities(skill, 100 * number)),
                bags("val", probabilities(skill, 100 * number + 1)),
                choices={"aggregator": aggregator, "backbone": backbone},
                settings={"aggregator": {"_target_": aggregator}, "backbone": {"name": backbone}},
                seed=seed,
                own=probabilities(0.1, 100 * number + 2),
            )
            number += 1
    return sweep


def read_tested(sweep: Path) -> list[TestSet]:
    """The sweep's test sets."""
    runs, _ = read_runs(sweep)
    factors = find_factors(runs)
    levels = [tuple(of_runs[i] for of_runs in factors.values()) for i in range(len(runs))]
    return by_test_set(runs, setting_labels(factors, len(runs)), levels)
