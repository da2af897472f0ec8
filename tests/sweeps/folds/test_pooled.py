"""Pooling the runs of a cross-validation; the command itself is tested in tests/commands."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import roc_auc_score

from lungtl.data.splits import save_split
from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.metrics import score
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import sha256
from lungtl.sweeps.folds.pooled import pool_sweep
from lungtl.sweeps.folds.runs import find_runs
from lungtl.sweeps.state import State, write_state
from tests.documents import check_document
from tests.evaluation.folds import cohort, fold

FOLDS = 3
CHOICES = {"dataset": "toy", "backbone": "tiny", "freezing": "frozen", "aggregator": "mean", "loss": "bag_only"}


def run_folder(
    sweep: Path,
    number: int,
    part: int,
    finished: bool = True,
    data: str = "toy-1",
    patients: int = 18,
    resamples: int = 50,
    untrained: bool = False,
    covariates: tuple[str, ...] = (),
    **settings: Any,
) -> None:
    """Write the results of a run of fold `part` to the sweep's folder."""
    overrides = {"split.fold": part, "seed": 0, **settings}
    split_seed = settings.get("split.seed", 0)
    config = {"name": settings.get("name"), "dry_run": False, "seed": overrides["seed"], "lr": settings.get("lr", 1),
              "data": data, "evaluation": {"resamples": resamples},
              "split": {"seed": split_seed, "fold": part, "folds": FOLDS, "kind": "kfold"}}  # fmt: skip
    folder = sweep / str(number)
    (folder / ".hydra").mkdir(parents=True)
    OmegaConf.save(config, folder / ".hydra" / "config.yaml")
    task = [f"{key}={value}" for key, value in overrides.items()]
    started = {"runtime": {"choices": CHOICES}, "overrides": {"task": task}}
    OmegaConf.save({"hydra": started}, folder / ".hydra" / "hydra.yaml")
    write_state(folder, State("finished" if finished else "failed", number, (), "val/loss"))
    if not finished:
        return
    made = fold(cohort(patients), part, FOLDS, split_seed)
    test = made.split[made.split["split"] == "test"].merge(made.predictions, on="bag_id")
    columns = ["bag_id", "patient_id", "label", "probability", "split"]
    if untrained:
        test["control_untrained"] = 1 - test["probability"]
        columns.append("control_untrained")
    if covariates:
        test["probability_with_covariates"] = 1 - test["probability"]
        columns.append("probability_with_covariates")
    save_split(made.split, folder / "split.csv")
    test[columns].to_csv(folder / "predictions.csv", index=False)
    table = score(test["label"], test["probability"], test["patient_id"], resamples=0)
    document = evaluation_document(split="test", bag=table)
    if covariates:
        document["with_covariates"] = {"covariates": covariates}
    (folder / "metrics.json").write_text(json.dumps(document))
    record = {"store": data, "store_fingerprint": f"hash of {data}", "split_sha256": sha256(folder / "split.csv")}
    (folder / "run.json").write_text(json.dumps(record))


def pool(sweep: Path) -> Path:
    """Pool a sweep whose runs all finished; returns the folder."""
    pool_sweep(sweep)
    return sweep / "pooled"


def rows_of(text: str, block: int = 0) -> list[list[str]]:
    """The cells of a table in a README, without its header."""
    table = [part for part in text.split("\n\n") if part.startswith("|")][block]
    return [line.strip("| ").split(" | ") for line in table.splitlines()[2:]]


@pytest.fixture
def pooled(sweep: Path) -> Path:
    """The folder of the pooled results, one setting of which could not be pooled."""
    with pytest.raises(LungtlError):
        pool_sweep(sweep)
    return sweep / "pooled"


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two settings of three folds each, one of them with two seeds; fold 1 of the other never finished."""
    number = 0
    for part in range(FOLDS):
        kinds: list[tuple[dict[str, Any], bool]]
        kinds = [({"lr": 1}, True), ({"lr": 1, "seed": 1}, True), ({"lr": 2}, part != 1)]
        for settings, finished in kinds:
            run_folder(tmp_path, number, part, finished, **settings)
            number += 1
    return tmp_path


def test_settings_differ_in_more_than_fold_and_seed(sweep: Path) -> None:
    runs = find_runs(sweep)
    assert [run.folder.name for run in runs] == [str(i) for i in range(9)]
    assert [(run.fold, run.seed) for run in runs[:4]] == [(0, 0), (0, 1), (0, 0), (1, 0)]
    assert len({run.setting for run in runs}) == 2
    assert {run.name for run in runs} == {"lr=1 toy tiny frozen mean", "lr=2 toy tiny frozen mean"}


def test_complete_repeats_are_pooled_and_the_failed_fold_is_named(
    sweep: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(LungtlError, match="1 of 3 settings and seeds are not pooled"):
        pool_sweep(sweep)
    assert capsys.readouterr().out == f"{sweep / 'pooled'}\n"
    (message,) = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert message.startswith("not pooled: lr=2 toy tiny frozen mean split.seed=0 seed=0: fold 1 did not finish")
    assert str(sweep / "5") in message
    table = pd.read_csv(sweep / "pooled" / "table.csv")
    assert table[["setting", "seed"]].to_numpy().tolist() == [["lr=1 toy tiny frozen mean", s] for s in (0, 1)]
    assert sorted(path.name for path in (sweep / "pooled").iterdir()) == [
        "0", "1", "README.md", "report.html", "table.csv"
    ]  # fmt: skip


def test_the_metrics_are_those_of_the_predictions(pooled: Path) -> None:
    rows = pd.read_csv(pooled / "0" / "oof_predictions.csv")
    assert sorted(rows["bag_id"]) == sorted(cohort(18)["bag_id"])
    assert list(rows.columns)[:5] == ["bag_id", "patient_id", "label", "probability", "fold"]
    assert {"control_prevalence", "control_diameter"} <= set(rows.columns)
    document = json.loads((pooled / "0" / "metrics.json").read_text())
    value = document["bag"]["metrics"]["auroc"]["value"]
    assert value == pytest.approx(roc_auc_score(rows["label"], rows["probability"]))
    check_document(document)
    assert document["bag"]["n_patients"] == 18
    assert document["split"] == "out_of_fold"
    assert document["runs"] == ["0", "3", "6"]
    assert document["controls"].keys() == {"prevalence", "diameter"}
    within = [roc_auc_score(own["label"], own["probability"]) for _, own in rows.groupby("fold")]
    assert document["folds"]["auroc"]["values"] == pytest.approx(within)
    row = pd.read_csv(pooled / "table.csv").iloc[0]
    assert row["auroc_folds_mean"] == pytest.approx(sum(within) / 3)
    assert row["auroc_low"] <= row["auroc"] <= row["auroc_high"]


def test_the_readme_has_a_row_per_repeat_control_and_setting(pooled: Path) -> None:
    text = (pooled / "README.md").read_text()
    table, seeds = (block for block in text.split("\n\n") if block.startswith("|"))
    assert [line.split(" | ")[0] for line in table.splitlines()[2:]] == [
        "| lr=1 toy tiny frozen mean", "| lr=1 toy tiny frozen mean", "| control: prevalence", "| control: diameter",
    ]  # fmt: skip
    value = pd.read_csv(pooled / "table.csv")["auroc"][0]
    (line,) = seeds.splitlines()[2:]
    assert line.startswith("| lr=1 toy tiny frozen mean | 2 |")
    assert f"| {value:.3f} ± 0.000 |" in line  # both seeds have the same predictions
    assert "different models" in text


def test_the_page_has_the_pooled_results_and_each_fold(pooled: Path) -> None:
    page = (pooled / "report.html").read_text()
    document = json.loads((pooled / "0" / "metrics.json").read_text())
    auroc = document["bag"]["metrics"]["auroc"]
    assert f"pooled AUROC {auroc['value']:.3f} [{auroc['low']:.3f}, {auroc['high']:.3f}]" in page
    for value in document["folds"]["auroc"]["values"]:
        assert f">{value:.3f}</td>" in page
    assert page.count("data:image/png;base64,") == len(list(pooled.glob("*/roc.png")))
    assert page.index('id="pooled"') < page.index('id="folds"')
    assert "`" not in page
    assert f"<dt>date</dt><dd>{datetime.now(UTC):%Y-}" in page


def test_settings_that_share_a_name_are_not_merged(tmp_path: Path) -> None:
    for number, (part, lr) in enumerate((part, lr) for part in range(FOLDS) for lr in (1, 2)):
        run_folder(tmp_path, number, part, name="study", lr=lr)
    names = [f"study: lr={lr} toy tiny frozen mean" for lr in (1, 2)]
    assert sorted({run.name for run in find_runs(tmp_path)}) == names
    folder = pool(tmp_path)
    assert pd.read_csv(folder / "table.csv")["setting"].tolist() == names
    text = (folder / "README.md").read_text()
    assert [row[0] for row in rows_of(text)][:2] == ["lr=1", "lr=2"]
    assert "over the seeds" not in text


def test_a_name_of_one_setting_is_used_alone(tmp_path: Path) -> None:
    for part in range(FOLDS):
        for seed in (0, 1):
            run_folder(tmp_path, 2 * part + seed, part, name="study", seed=seed)
    folder = pool(tmp_path)
    assert pd.read_csv(folder / "table.csv")["setting"].tolist() == ["study", "study"]
    (row,) = rows_of((folder / "README.md").read_text(), block=1)
    assert row[:2] == ["study", "2"]


def test_each_dataset_and_split_seed_has_its_own_controls(tmp_path: Path) -> None:
    """Two datasets, one of them with two split seeds."""
    repeats: list[dict[str, Any]]
    repeats = [{"data": "toy-1"}, {"data": "toy-1", "split.seed": 1}, {"data": "toy-2", "patients": 21}]
    for number, (part, repeat) in enumerate((part, repeat) for part in range(FOLDS) for repeat in repeats):
        run_folder(tmp_path, number, part, **repeat)
    folder = pool(tmp_path)
    rows = rows_of((folder / "README.md").read_text())
    documents = [json.loads((folder / str(k) / "metrics.json").read_text()) for k in range(3)]
    settings, controls = rows[:3], [row for row in rows if row[0].startswith("control: diameter")]
    assert [row[:2] for row in settings] == [
        ["toy tiny frozen mean (toy-1)", "0"], ["toy tiny frozen mean (toy-1)", "1"],
        ["toy tiny frozen mean (toy-2)", "0"],
    ]  # fmt: skip
    assert [row[:2] for row in controls] == [
        ["control: diameter (toy-1)", "0"], ["control: diameter (toy-1)", "1"], ["control: diameter (toy-2)", "0"]
    ]  # fmt: skip
    for row, document in zip(controls, documents, strict=True):
        assert row[3] == str(document["bag"]["n"])
        assert row[-1].startswith(f"{document['controls']['diameter']['metrics']['brier']['value']:.3f} [")
    assert controls[0] != controls[1] != controls[2]


def test_the_untrained_control_is_pooled_and_shown_for_each_repeat(tmp_path: Path) -> None:
    for part in range(FOLDS):
        for seed in (0, 1):
            run_folder(tmp_path, 2 * part + seed, part, seed=seed, untrained=True)
    folder = pool(tmp_path)
    document = json.loads((folder / "0" / "metrics.json").read_text())
    tables = (document["bag"], document["controls"]["untrained"])
    model, control = (table["metrics"]["auroc"]["value"] for table in tables)
    assert control == pytest.approx(1 - model)  # its predictions are the opposite
    assert document["gains"]["untrained"]["difference"] == pytest.approx(model - control)
    rows = rows_of((folder / "README.md").read_text())
    assert [row[:3] for row in rows if "untrained" in row[0]] == [
        ["control: untrained", "0", str(seed)] for seed in (0, 1)
    ]


def test_the_prediction_with_covariates_is_a_row_of_each_repeat(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for part in range(FOLDS):
        for seed in (0, 1):
            run_folder(tmp_path, 2 * part + seed, part, seed=seed, covariates=("diameter", "density"))
    with caplog.at_level(logging.INFO):
        folder = pool(tmp_path)
    document = json.loads((folder / "0" / "metrics.json").read_text())
    check_document(document)
    combined = document["with_covariates"]
    model, auroc = (scores["metrics"]["auroc"]["value"] for scores in (document["bag"], combined["scores"]))
    assert auroc == pytest.approx(1 - model)  # its predictions are the opposite
    assert combined["gain"]["difference"] == pytest.approx(auroc - model)
    title = "toy tiny frozen mean with diameter, density"
    rows = [row for row in rows_of((folder / "README.md").read_text()) if row[0] == title]
    assert [row[:3] for row in rows] == [[title, "0", str(seed)] for seed in (0, 1)]
    assert all(any(cell.startswith(f"{auroc:.3f} [") for cell in row) for row in rows)
    assert (folder / "report.html").read_text().count(title) == 2
    assert caplog.text.count("with diameter, density") == 2


def test_the_intervals_have_as_many_resamples_as_the_runs(tmp_path: Path) -> None:
    for part in range(FOLDS):
        run_folder(tmp_path, part, part, resamples=10)
    folder = pool(tmp_path)
    rows = pd.read_csv(folder / "0" / "oof_predictions.csv")
    columns = rows["label"], rows["probability"], rows["patient_id"]
    few, many = (score(*columns, resamples=n).metrics["auroc"] for n in (10, 1000))
    written = json.loads((folder / "0" / "metrics.json").read_text())["bag"]["metrics"]["auroc"]
    assert (written["low"], written["high"]) == (few.low, few.high)
    assert few.low != many.low


def test_folds_on_different_data_are_not_pooled(tmp_path: Path) -> None:
    for part in range(FOLDS):
        run_folder(tmp_path, part, part)
    record = json.loads((tmp_path / "2" / "run.json").read_text()) | {"store_fingerprint": "another"}
    (tmp_path / "2" / "run.json").write_text(json.dumps(record))
    with pytest.raises(LungtlError, match="1 of 1 settings and seeds are not pooled"):
        pool(tmp_path)


def test_a_dry_run_has_nothing_to_pool(tmp_path: Path) -> None:
    (tmp_path / "0" / ".hydra").mkdir(parents=True)
    assert find_runs(tmp_path) == []
