"""The page of a study: its question, protocol, tables and figure, from the cross-validations that were run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from paired_tests import RANDOM, paired_tests

from lungtl.evaluation.estimate import Estimate, mean_and_sd
from lungtl.evaluation.figures.canvas import save
from lungtl.evaluation.figures.intervals import dot_with_intervals
from lungtl.evaluation.formatting import format_estimate, markdown_table
from lungtl.evaluation.metrics import score
from lungtl.runs.naming import differing
from lungtl.sweeps.folds.pooled import ENSEMBLE

HERE = Path(__file__).parent
CONTROLS = ("diameter", "size_density")
"""Controls of the data, the same for every setting; the probe is one too where the settings share the features."""

IN_WORDS = {
    r"image\.crop_mm=null ": "",
    r"image\.crop_mm=(\d+)": r"\1 mm",
    r"image\.crop=(\d+)": r"\1 pixels",
    r"image\.size=(\d+)": r"as \1 x \1",
}
"""Overrides -> how figures call them."""


def write(name: str, sweeps: Sequence[Path], out: Path) -> Path:
    """Write the study's README.md, table.csv and auroc.png; returns the folder."""
    documents = [document for sweep in sweeps for document in read_pooled(sweep)]
    several = len(documents) > 1
    labels = labelled([document["setting"] for document in documents]) if several else ["network"]
    probes = [document["controls"].get("probe") for document in documents]
    shared = (*CONTROLS, "probe") if several and all(probe == probes[0] for probe in probes) else CONTROLS
    rows, estimates = [], []
    for number, (label, document) in enumerate(zip(labels, documents, strict=True)):
        following = documents[number + 1]["bag"]["n"] if number + 1 < len(documents) else None
        for title, scores in scored(label, document, shared, last=following != document["bag"]["n"]):
            auroc, folds = scores["metrics"]["auroc"], document["folds"]["auroc"]
            rows.append((
                title, str(scores["n"]), str(scores["n_positive"]), text(auroc), text(scores["metrics"]["accuracy"]),
                f"{folds['mean']:.3f} ± {folds['sd']:.3f}" if title == label else "",
            ))  # fmt: skip
            estimates.append(Estimate(auroc["value"], auroc["low"], auroc["high"], auroc["undefined"]))
    out.mkdir(parents=True, exist_ok=True)
    header = ("setting", "cases", "malignant", "AUROC, pooled", "accuracy at 0.5", "AUROC, mean of folds")
    table = [header, *rows]
    pd.DataFrame(rows, columns=header).to_csv(out / "table.csv", index=False)
    reference = documents[-1]["controls"].get("diameter", {}).get("metrics", {}).get("auroc", {}).get("value")
    if len({document["bag"]["n"] for document in documents}) > 1:
        reference = None  # other cases have another one, which is a row
    titles = [row[0] for row in rows]
    hidden = (": untrained", *([": probe"] if several else []))
    drawn = [number for number, title in enumerate(titles) if not title.endswith(hidden) and not is_control(title)]
    controls = [control_of(titles[number], titles) for number in drawn]
    random = [None if control is None else estimates[titles.index(control)] for control in controls]
    marks = [mark for mark, is_drawn in (("dashed: diameter alone", reference is not None),
                                         ("hollow: random weights", any(random))) if is_drawn]  # fmt: skip
    figure = dot_with_intervals(
        [short(titles[number]) for number in drawn], [estimates[number] for number in drawn], reference=reference,
        controls=random,
        xlabel="AUROC, out of fold" + (f" ({', '.join(marks)})" if marks else ""),
    )  # fmt: skip
    save(figure, out / "auroc.png")
    page = [
        f"# {name}",
        "",
        *question(name),
        "",
        "![AUROC of every setting](auroc.png)",
        "",
        *markdown_table(table),
        "",
    ]
    page += [
        "Paired tests of AUROCs (DeLong, patients as clusters; p Holm-corrected over a column):",
        "",
        *markdown_table(paired_tests(name, labels, documents)),
        "",
    ]
    if (model := recipe(documents)) and (rows_of_patients := by_patient(model)):
        columns = ("", "patients", "malignant", "AUROC", "accuracy at 0.5")
        page += ["Patients, by the highest prediction of their nodules:", "",
                 *markdown_table([columns, *rows_of_patients]), ""]  # fmt: skip
    if name == "seed_paper":
        page += [f"Accuracy at 0.5 on the training cases, mean of the folds: {training_accuracy(sweeps[0]):.3f}.", ""]
    if name == "transfer":
        parameters = [f"{document['trainable_parameters']:,}" for document in documents]
        page += ["[benchmarks/transfer.csv](../../../benchmarks/transfer.csv) has the time of an epoch.", "",
                 *markdown_table([("setting", "parameters that train"), *zip(labels, parameters, strict=True)]),
                 ""]  # fmt: skip
    findings = yaml.safe_load((HERE / "results" / "findings.yaml").read_text(encoding="utf-8")).get(name, {})
    page += [line for title, finding in findings.items() for line in (f"**{title}**: {finding}", "")]
    folds = len(documents[0]["folds"]["auroc"]["values"])
    counts = [document["bag"]["n_patients"] for document in documents]
    patients = " to ".join(str(count) for count in sorted({min(counts), max(counts)}))
    repeats = documents[0]["repeats"]
    tested = "every case is tested once, by a network that has seen neither it nor its patient."
    if len(repeats) > 1:
        alone = ", ".join(f"{value:.3f}" for value in repeats)
        tested = (
            f"repeated with {len(repeats)} divisions into folds. A case has the mean of {len(repeats)} predictions, by "
            f"networks that have seen neither it nor its patient. AUROC of the network in each repeat alone: {alone}."
        )
    page += [
        f"{folds}-fold cross-validation by patient, {patients} patients; {tested}",
        "Intervals: bootstrap over patients of the pooled predictions. They and the paired tests take the networks as "
        "given: other training patients would give other networks, so true intervals are wider.",
        "", f"`make results STUDIES={name}` writes this page.", "",
    ]  # fmt: skip
    (out / "README.md").write_text("\n".join(page), encoding="utf-8")
    return out


def labelled(settings: Sequence[str]) -> list[str]:
    """What distinguishes each setting, choices first; one with a `name=` of its own, a single word, keeps it."""
    derived = [setting for setting in settings if " " in setting]
    words = dict(zip(derived, differing(derived) if derived else [], strict=True))
    if len(words) > 1 and any(own == setting for setting, own in words.items()):  # it has what all share, no more
        words = {each: "network" if own == each else f"network {own}" for each, own in words.items()}
    return [" ".join(sorted(words.get(each, each).split(), key=lambda word: "=" in word)) for each in settings]


def recipe(documents: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The setting that a study recommends: its ensemble, or the only one with ImageNet's weights."""
    imagenet = [document for document in documents if RANDOM not in document["setting"].split()]
    ensembles = [document for document in imagenet if document["setting_key"] == ENSEMBLE]
    return ensembles[0] if ensembles else imagenet[0] if len(imagenet) == 1 else None


def read_pooled(sweep: Path) -> list[dict[str, Any]]:
    """The pooled results of each setting of a sweep, in its order, with out-of-fold predictions and diameters.

    Repeats of a setting with several splits become one: each case has the mean of its predictions, all of them by
    networks that have not seen its patient.
    """
    documents: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(sweep.glob("pooled/*/metrics.json"), key=lambda path: int(path.parent.name)):
        document = json.loads(path.read_text(encoding="utf-8"))
        split = pd.read_csv(sweep / document["runs"][0] / "split.csv", dtype=str, keep_default_na=False)
        predictions = pd.read_csv(path.parent / "oof_predictions.csv", dtype={"bag_id": str, "patient_id": str})
        document["predictions"] = predictions.merge(split[["bag_id", "diameter_mm"]], on="bag_id")
        run = json.loads((sweep / document["runs"][0] / "metrics.json").read_text(encoding="utf-8"))
        document["trainable_parameters"] = run["training"]["trainable_parameters"]
        documents.setdefault(document["setting_key"], []).append(document)
    return [combine(repeats) for repeats in documents.values()]


def combine(repeats: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """One document of several cross-validations of a setting, scored on the mean of their predictions."""
    document = repeats[0] | {"repeats": [repeat["bag"]["metrics"]["auroc"]["value"] for repeat in repeats]}
    if len(repeats) == 1:
        return document
    table = document["predictions"].drop(columns="fold")
    for column in table.filter(regex="^(probability|control_)"):
        table[column] = np.mean([repeat["predictions"][column] for repeat in repeats], axis=0)
    labels, patients = table["label"], table["patient_id"]

    def scores(column: str) -> dict[str, Any]:
        return asdict(score(labels, table[column], patients))

    document |= {"predictions": table, "bag": document["bag"] | scores("probability")}
    document["controls"] = {name: scores(f"control_{name}") for name in document["controls"]}
    if (combined := document["with_covariates"]) is not None:
        document["with_covariates"] = combined | {"scores": scores("probability_with_covariates")}
    values = [value for repeat in repeats for value in repeat["folds"]["auroc"]["values"]]
    mean, sd = mean_and_sd([value for value in values if value is not None])
    document["folds"] = {"auroc": {"values": document["folds"]["auroc"]["values"], "mean": mean, "sd": sd}}
    return document


def scored(label: str, document: dict[str, Any], shared: Sequence[str], last: bool) -> list[tuple[str, dict[str, Any]]]:
    """The rows of a setting: the network, with covariates, its own controls; with `last`, those that settings share."""
    rows = [(label, document["bag"])]
    if document["with_covariates"] is not None:
        covariates = " and ".join(document["with_covariates"]["covariates"])
        rows.append((f"{label}, with {covariates}", document["with_covariates"]["scores"]))
    own = [name for name in document["controls"] if name not in ("prevalence", *shared)]
    rows += [(f"{label}: {name}", document["controls"][name]) for name in own]
    if last:
        rows += [(name.replace("_", " and "), scores) for name in shared if (scores := document["controls"].get(name))]
    return rows


def is_control(title: str) -> bool:
    """Whether a row is of frozen random weights, which figures draw below those of ImageNet's."""
    return RANDOM in re.split(r"[ ,:]", title)


def control_of(title: str, titles: Sequence[str]) -> str | None:
    """The row of a setting's random weights: its control `untrained`, or the same setting without ImageNet's."""
    label, comma, covariates = title.partition(",")
    candidates = (f"{title}: untrained", f"{label} {RANDOM}{comma}{covariates}")
    return next((candidate for candidate in candidates if candidate in titles), None)


def short(setting: str) -> str:
    """A setting for the figure: fields of view in words, other keys without their groups, in lines."""
    for pattern, words in IN_WORDS.items():
        setting = re.sub(pattern, words, setting)
    return textwrap.fill(re.sub(r"\b(\w+\.)+(?=\w+=)", "", setting), 30)


def training_accuracy(sweep: Path) -> float:
    """The mean over the runs of a sweep of the network's accuracy on the cases that trained it."""
    accuracies = []
    for run in json.loads((sweep / "pooled" / "0" / "metrics.json").read_text(encoding="utf-8"))["runs"]:
        config = yaml.safe_load((sweep / run / "config.yaml").read_text(encoding="utf-8"))
        command = [
            sys.executable, "-m", "lungtl.evaluate", f"model={sweep / run}", "split=train", "dataset=lidc_slices",
            *(f"dataset.{key}={config['dataset'][key]}" for key in ("root", "rule", "min_readers", "indeterminate")),
            f"data_dir={sweep.parent.parent}", "tracking=none", "untrained=false", "heatmaps=false", "resamples=10",
        ]  # fmt: skip
        printed = subprocess.run(command, check=True, cwd=HERE.parent, stdout=subprocess.PIPE, text=True).stdout
        scores = json.loads((Path(printed.split()[-1]) / "metrics.json").read_text(encoding="utf-8"))
        accuracies.append(scores["bag"]["metrics"]["accuracy"]["value"])
    return float(np.mean(accuracies))


def by_patient(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each prediction of patients with several nodules, malignant if one is; none if each has one case."""
    table = document["predictions"]
    if table["patient_id"].is_unique or "control_size_density" not in table:
        return []
    names = {"probability": "network", "probability_with_covariates": "network, with covariates",
             "control_diameter": "diameter", "control_size_density": "size and density"}  # fmt: skip
    highest = table.groupby("patient_id")[["label", *(name for name in names if name in table)]].max()
    rows = []
    for column in highest.columns[1:]:
        scores = asdict(score(highest["label"], highest[column], highest.index))
        counts = str(scores["n"]), str(scores["n_positive"])
        rows.append((names[column], *counts, *(text(scores["metrics"][name]) for name in ("auroc", "accuracy"))))
    return rows


def question(name: str) -> list[str]:
    """The comment at the top of the study's YAML."""
    lines = (HERE / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    return [line.removeprefix("# ") for line in lines if line.startswith("# ") and not line.startswith("# @")]


def text(estimate: dict[str, Any]) -> str:
    """A value of metrics.json with its interval."""
    return format_estimate(Estimate(estimate["value"], estimate["low"], estimate["high"], estimate["undefined"]))
