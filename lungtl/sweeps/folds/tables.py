"""table.csv and README.md of a cross-validation's pooled results."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from lungtl.evaluation.formatting import (
    HEADLINES,
    UNDEFINED,
    format_estimate,
    format_mean_sd,
    format_number,
    markdown_table,
)
from lungtl.evaluation.pooling import RUN_CONTROLS
from lungtl.runs.naming import differing

Row = tuple[str, ...]
COLUMNS = ("AUROC, mean of the folds", *(f"{title}, pooled" for title in HEADLINES.values()))
EXPLANATION = """\
Every patient is tested once, by the model of the fold that was neither trained nor validated on that patient. *Pooled*
metrics use all these predictions together; sensitivity and specificity are at a probability of 0.5. The *mean of the
folds* only compares patients within a fold; its spread is the standard deviation between folds.

Pooled metrics have two limitations. First, a pooled AUROC compares scores of different models, which need not share a
scale, and it is biased downwards: the more positives a fold tests, the fewer its model was trained on (Parker et al.,
BMC Bioinformatics 8 (2007) 326). A model that learned nothing is below 0.5. The prevalence control is exactly 0.5
because it is a constant, the mean over the folds. Second, the 95 % intervals, by bootstrap over patients, are too
narrow: they treat the predictions as those of one fixed model, although other training patients would give other
models. For the same reason no gain over a control has a p-value.

Written by `python -m lungtl.crossval`.
"""


def table_row(document: dict[str, Any]) -> dict[str, Any]:
    """A row of table.csv: the repeat, and each metric's pooled value and interval, mean and spread of the folds."""
    row = {key: document[key] for key in ("setting", "store", "split_seed", "seed", "pooled")}
    row |= {key: document["bag"][key] for key in ("n", "n_patients", "n_positive")}
    for name, estimate in document["bag"]["metrics"].items():
        folds = document["folds"][name]
        row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"],
                f"{name}_folds_mean": folds["mean"], f"{name}_folds_sd": folds["sd"]}  # fmt: skip
    return row


def terminal_rows(documents: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """The terminal's table: the AUROC of each repeat, then of its controls; seeds only where they vary."""
    settings = [document["setting"] for document in documents]
    names = differing(settings) if len(set(settings)) > 1 else ["model"] * len(settings)
    vary = [key for key in ("split_seed", "seed") if len({document[key] for document in documents}) > 1]
    none = ("",) * len(vary)
    rows: list[Row] = [("setting", *(key.replace("_", " ") for key in vary), "AUROC, pooled", "AUROC, mean of folds")]
    for name, document in zip(names, documents, strict=True):
        seeds = tuple(str(document[key]) for key in vary)
        pooled = format_estimate(document["bag"]["metrics"]["auroc"])
        rows.append((name, *seeds, pooled, format_mean_sd(document["folds"]["auroc"]["values"])))
        below = {f"control: {control}": scores for control, scores in document["controls"].items()}
        if (combined := document["with_covariates"]) is not None:
            below = {f"with {', '.join(combined['covariates'])}": combined["scores"], **below}
        for title, scores in below.items():
            rows.append((f"  {title}", *none, format_estimate(scores["metrics"]["auroc"]), ""))
    return rows


def table_parts(documents: list[dict[str, Any]]) -> tuple[list[Row], list[Row], list[Row]]:
    """A row per repeat, per control, and per setting with several repeats; each table with its header first.

    Returns:
        The header and the repeats; their predictions with covariates and the controls, without a header; the header and
        the settings, empty if each setting has one repeat.
    """
    rows: list[tuple[str, ...]] = []
    controls: list[Row] = []
    settings: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    name_of: dict[tuple[str, str], str] = {}
    several_stores = len({document["store_fingerprint"] for document in documents}) > 1
    names = differing([document["setting"] for document in documents])
    for name, document in zip(names, documents, strict=True):
        if several_stores:
            name = f"{name} ({document['store']})"
        setting, data = document["setting_key"], document["store_fingerprint"]
        split_seed, seed = str(document["split_seed"]), str(document["seed"])
        counts = str(document["bag"]["n"]), str(document["bag"]["n_positive"])
        within_folds = format_mean_sd(document["folds"]["auroc"]["values"])
        rows.append((name, split_seed, seed, *counts, within_folds, *_cells(document["bag"])))
        if (combined := document["with_covariates"]) is not None:
            known = str(combined["scores"]["n"]), str(combined["scores"]["n_positive"])
            title = f"{name} with {', '.join(combined['covariates'])}"
            controls.append((title, split_seed, seed, *known, "", *_cells(combined["scores"])))
        for control, scores in document["controls"].items():
            title, own_seed = f"control: {control}", ""
            if control in RUN_CONTROLS:
                title, own_seed = f"{title} of {name}" if len(set(names)) > 1 else title, seed
            elif several_stores:
                title = f"{title} ({document['store']})"
            controls.append((title, split_seed, own_seed, *counts, "", *_cells(scores)))
        settings[setting, data].append(document)
        name_of[setting, data] = name
    header = ("setting", "split seed", "seed", "cases", "positive", *COLUMNS)
    averages: list[Row] = []
    if len(settings) < len(documents):
        averages = [("setting", "seeds", *COLUMNS)]
        averages += [(name_of[key], str(len(repeats)), *_over_seeds(repeats)) for key, repeats in settings.items()]
    return [header, *rows], list(dict.fromkeys(controls)), averages


def fold_rows(documents: list[dict[str, Any]]) -> list[Row]:
    """The AUROC of each fold of each repeat, a header first."""
    aurocs = [document["folds"]["auroc"]["values"] for document in documents]
    rows: list[Row] = [("setting", "split seed", "seed", *(f"fold {k}" for k in range(max(map(len, aurocs)))))]
    for name, document, values in zip(
        differing([document["setting"] for document in documents]), documents, aurocs, strict=True
    ):
        cells = (UNDEFINED if value is None else format_number(value) for value in values)
        rows.append((name, str(document["split_seed"]), str(document["seed"]), *cells))
    return rows


def markdown(documents: list[dict[str, Any]]) -> str:
    """README.md of the repeats."""
    repeats, controls, averages = table_parts(documents)
    blocks = ["# Cross-validation", "\n".join(markdown_table([*repeats, *controls]))]
    if averages:
        blocks += ["Mean ± standard deviation over the seeds:", "\n".join(markdown_table(averages))]
    return "\n\n".join([*blocks, EXPLANATION])


def _cells(scores: dict[str, Any]) -> list[str]:
    return [format_estimate(scores["metrics"][metric], reasons=True) for metric in HEADLINES]


def _over_seeds(repeats: list[dict[str, Any]]) -> list[str]:
    folds = [repeat["folds"]["auroc"]["mean"] for repeat in repeats]
    pooled = ([repeat["bag"]["metrics"][metric]["value"] for repeat in repeats] for metric in HEADLINES)
    return [format_mean_sd(values) for values in (folds, *pooled)]
