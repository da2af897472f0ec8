"""What a cross-validation's pooled results look like in a table: table.csv and README.md."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "brier")
COLUMNS = ("auroc, mean of the folds", *(f"{name}, pooled" for name in SHOWN))
OF_THE_RUN = ("untrained",)  # controls that depend on a run's setting and seed, not on data and split alone
EXPLANATION = """\
Every patient is tested once, by the model of the fold that neither trained on it nor chose its epoch by it. *Pooled*
scores take all these predictions together; sensitivity and specificity are at a probability of 0.5. The *mean of the
folds* compares within each fold only; its spread is the standard deviation between folds.

Two things to know of pooled scores. A pooled AUROC also compares scores of different models, which need not share a
scale, and it is biased downwards: the more positives a fold tests, the fewer its model was trained on (Parker et al.,
BMC Bioinformatics 8 (2007) 326). A model that learned nothing comes out below 0.5. The prevalence control is exactly
0.5 because it is one constant, the mean over the folds; a share for each fold would be below. And the 95 % intervals,
by bootstrap over patients, are too narrow: they take the predictions for those of one fixed model, while the folds'
models would be others with other training patients. For the same reason no gain over a control has a p-value.

Written by `python -m lungtl.crossval`.
"""


def table_row(document: dict[str, Any]) -> dict[str, Any]:
    """A row of table.csv: which repeat, and each metric's pooled value and interval, mean and spread of the folds."""
    row = {key: document[key] for key in ("setting", "store", "split_seed", "seed", "pooled")}
    row |= {key: document["bag"][key] for key in ("n", "n_patients", "n_positive")}
    for name, estimate in document["bag"]["metrics"].items():
        folds = document["folds"][name]
        row |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"],
                f"{name}_folds_mean": folds["mean"], f"{name}_folds_sd": folds["sd"]}  # fmt: skip
    return row


def markdown(documents: list[dict[str, Any]]) -> str:
    """README.md: a line a repeat and one a control; then, where a setting has several repeats, a line a setting.

    Args:
        documents: the metrics.json of the repeats.
    """
    from lungtl.evaluation.formatting import format_mean_sd, markdown_table

    lines: list[tuple[str, ...]] = []
    controls: dict[tuple[str, ...], tuple[str, ...]] = {}
    settings: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    called: dict[tuple[str, str], str] = {}
    names = _names(documents)
    stores = len({document["store_fingerprint"] for document in documents})
    for name, document in zip(names, documents, strict=True):
        setting, data = document["setting_key"], document["store_fingerprint"]
        split_seed, seed = str(document["split_seed"]), str(document["seed"])
        counts = str(document["bag"]["n"]), str(document["bag"]["n_positive"])
        cells = _cells(document)
        within = format_mean_sd(document["folds"]["auroc"]["values"])
        lines.append((name, split_seed, seed, *counts, within, *cells["model"]))
        for control in document["controls"]:
            shown, of = f"control: {control}", ("", "")  # the setting and the seed that it depends on
            if control in OF_THE_RUN:
                shown, of = f"{shown} of {name}", (setting, seed)
            elif stores > 1:
                shown = f"{shown} ({document['store']})"
            row = (shown, split_seed, of[1], *counts, "", *cells[control])
            controls.setdefault((control, data, split_seed, *of), row)
        settings[setting, data].append(document)
        called[setting, data] = name
    head = ("setting", "split seed", "seed", "bags", "positive", *COLUMNS)
    blocks = ["# Cross-validation", "\n".join(markdown_table([head, *lines, *controls.values()]))]
    if len(settings) < len(documents):
        rows = [(called[key], str(len(repeats)), *_over_seeds(repeats)) for key, repeats in settings.items()]
        table = markdown_table([("setting", "seeds", *COLUMNS), *rows])
        blocks += ["Mean ± standard deviation over the seeds:", "\n".join(table)]
    return "\n\n".join([*blocks, EXPLANATION])


def _names(documents: list[dict[str, Any]]) -> list[str]:
    """What tells the settings apart, and the store where there are several."""
    from lungtl.runs.naming import differing

    names = differing([document["setting"] for document in documents])
    if len({document["store_fingerprint"] for document in documents}) == 1:
        return names
    return [f"{name} ({document['store']})" for name, document in zip(names, documents, strict=True)]


def _cells(document: dict[str, Any]) -> dict[str, list[str]]:
    """The shown metrics as text, of the model and of each control."""
    from lungtl.evaluation.formatting import rows_for_table

    (_, *columns), *rows = rows_for_table(document)
    texts = {metric: row for metric, *row in rows}
    return {column: [texts[metric][k] for metric in SHOWN] for k, column in enumerate(columns)}


def _over_seeds(repeats: list[dict[str, Any]]) -> list[str]:
    from lungtl.evaluation.formatting import format_mean_sd

    folds = [repeat["folds"]["auroc"]["mean"] for repeat in repeats]
    pooled = ([repeat["bag"]["metrics"][metric]["value"] for repeat in repeats] for metric in SHOWN)
    return [format_mean_sd(values) for values in (folds, *pooled)]
