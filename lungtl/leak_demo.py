"""`python -m lungtl.leak_demo`: how much a split that is not by patient inflates the results.

Slices of one nodule are nearly identical, and nodules of one patient share scanner, dose and anatomy, so a split that
separates them lets a model recognise instead of generalise. Frozen features and a logistic regression classify nodule
slices as malignant or benign, cross-validated three times: with folds by patient, as everywhere else in lungtl, by scan
or nodule, and by slice. The same is repeated with random labels, one per patient: nothing can be learnt from these, so
any gain over folds by patient is recognition alone.

The leaking folds exist only in `lungtl.evaluation.leakage`, and no model is kept.
"""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungtl.evaluation.formatting import markdown_table, text_table
from lungtl.evaluation.leakage import (
    BAG,
    DATASET_LABELS,
    PATIENT,
    RANDOM_LABELS,
    SLICE,
    Floats,
    compare,
    differences,
)
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps import jobs

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from lungtl.data.store.reader import Store
    from lungtl.data.windows import SlicePreprocessor
    from lungtl.models.bag_classifier import BagClassifier

log = logging.getLogger(__name__)
DRAWS = 5
"""Repetitions with other folds and other random labels."""
EXPLANATION = """\
![AUROC by kind of folds](leak.png)

Only the first row is a result. Random labels cannot be learnt, so an honest estimate is near 0.5 (slightly below,
since a fold with more positives than average leaves fewer for training). `lungtl train` splits by patient only and
refuses a split that puts a patient on two sides.

table.csv has 95 % intervals by bootstrap over patients. They treat the pooled predictions of all folds as those of one
fixed model and are therefore too narrow. Written by `lungtl leak_demo`.
"""
SHOWN = {PATIENT: "patients", BAG: "nodules or scans", SLICE: "nothing (random slices)"}
NAMES = {BAG: "nodule or scan", SLICE: "slice"}


def run(config: TrainConfig) -> None:
    """Write table.csv, leak.png and README.md, and print their folder."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.data.field_of_view import check_slices
    from lungtl.data.store.opening import open_store
    from lungtl.data.tables import write_table
    from lungtl.evaluation.figures.canvas import save
    from lungtl.sources.lidc_labels import describe_labels
    from lungtl.training.build import build_classifier

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    store = open_store(config)
    classifier = build_classifier(config, store.value_range)
    check_slices(classifier.preprocessor.crop_mm, store.bags, store.name)
    rows, features = nodule_slices(store, classifier, config)
    table = compare(rows, features, config.split.folds, config.split.seed, DRAWS)
    write_table(table, folder / "table.csv")
    dataset = str(config.dataset.get("name", store.name.rpartition("-")[0]))
    save(figure(table, dataset), folder / "leak.png")
    about = {
        "command": f"`{command(hydra.overrides.task)}`",
        "store": f"{store.name}, fingerprint {store.fingerprint}",
        "labels": describe_labels(store.manifest["recipe"]),
        "image": image(classifier.preprocessor),
        "features": f"{classifier.backbone.name}, frozen",
    }
    (folder / "README.md").write_text(markdown(table, dataset, about), encoding="utf-8")
    log.info("AUROC of slices, out of fold: mean of %d repetitions (minimum to maximum)", table["draw"].nunique())
    shown = "\n".join(textwrap.fill(line, 80, subsequent_indent="  ") for line in findings(table))
    log.info("%s\n%s\nfolder  %s", text_table(table_rows(table)), shown, folder)
    print(folder)


def command(overrides: Iterable[str]) -> str:
    """The command line, with paths shortened to their last part."""
    named = [override for override in overrides if override.partition("=")[0] not in ("data_dir", "workers")]
    parts = (override.partition("=") for override in named)
    return " ".join(["lungtl leak_demo", *(f"{key}={Path(value).name}" for key, _, value in parts)])


def image(preprocessor: SlicePreprocessor) -> str:
    """The pixels of a slice that the backbone sees."""
    if preprocessor.crop_mm:
        cut = f"the central {' and '.join(f'{mm:g}' for mm in preprocessor.crop_mm)} mm"
    else:
        cut = "whole slices" if preprocessor.crop is None else f"the central {preprocessor.crop} pixels"
    return f"{cut}, resized to {preprocessor.size} x {preprocessor.size}"


def nodule_slices(store: Store, classifier: BagClassifier, config: TrainConfig) -> tuple[pd.DataFrame, Floats]:
    """The slices that show a nodule, and their frozen features.

    Returns:
        bag_id, patient_id, malignant (0 or 1), one row per slice; and float32 [N, D].

    Raises:
        LungtlError: there are no malignant or no benign nodule slices, or the features do not fit into the cache.
    """
    from lungtl.sources.base import BENIGN, MALIGNANT
    from lungtl.training.devices import pick_device
    from lungtl.training.feature_cache import cached_features

    labels = store.slices["slice_label"]
    counts = {name: int((labels == label).sum()) for name, label in (("malignant", MALIGNANT), ("benign", BENIGN))}
    for name, count in counts.items():
        if count == 0:
            raise LungtlError(
                f"{store.name} has no slice of a {name} nodule; choose dataset=phantom, lidc or lidc_slices"
            )
    weights = classifier.backbone.fingerprint()
    device = pick_device(config.trainer.accelerator)
    cached = cached_features(classifier, store, config.data_dir, device, weights, max_gb=config.cache.max_gb)
    if cached is None:
        raise LungtlError(f"the features do not fit into cache.max_gb={config.cache.max_gb:g}; raise it")
    features = np.concatenate([cached.rows(bag_id).float().numpy() for bag_id in store.bags["bag_id"]])
    slices = store.slices.merge(store.bags[["bag_id", "patient_id"]], on="bag_id", validate="many_to_one")
    slices["malignant"] = (labels == MALIGNANT).to_numpy(int)
    shown = labels.isin([BENIGN, MALIGNANT]).to_numpy()
    return slices.loc[shown, ["bag_id", "patient_id", "malignant"]].reset_index(drop=True), features[shown]


def figure(table: pd.DataFrame, dataset: str) -> Figure:
    """A panel for each kind of labels, a line for each kind of folds, a mark for each repetition."""
    from lungtl.evaluation.figures.canvas import BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy

    styles = {PATIENT: ("o", BLUE), BAG: ("s", ORANGE), SLICE: ("^", VERMILLION)}
    kinds = [kept for kept in SHOWN if (table["kept_together"] == kept).any()]
    drawn = new_figure(2.0 + 0.5 * len(kinds))
    first = table.iloc[0]
    drawn.suptitle(
        f"{dataset}: {first['n']} nodule slices of {first['n_patients']} patients\n"
        "a mark for each repetition, their mean above",
        fontsize=10,
    )
    panels = drawn.subplots(1, 2, sharex=True, sharey=True)
    lowest = min(0.4, table["auroc"].min()) - 0.05
    for axes, labels in zip(panels, (DATASET_LABELS, RANDOM_LABELS), strict=True):
        tidy(axes)
        axes.axvline(0.5, color=GREY, linestyle=":")
        axes.annotate("chance", (0.5, len(kinds) - 0.55), (3, 0), textcoords="offset points", color=GREY)
        for line, kept in enumerate(kinds):
            values = table.loc[(table["labels"] == labels) & (table["kept_together"] == kept), "auroc"]
            marker, colour = styles[kept]
            axes.scatter(values, [line] * len(values), marker=marker, s=60, color=colour, alpha=0.7)
            axes.annotate(
                f"{values.mean():.2f}", (values.mean(), line), (0, 9), textcoords="offset points", ha="center"
            )
        axes.set(
            title=labels, xlabel="AUROC of slices, out of fold", xlim=(lowest, 1.03), ylim=(len(kinds) - 0.5, -0.7)
        )
        axes.set_yticks(range(len(kinds)), [SHOWN[kept] for kept in kinds])
    panels[0].set_ylabel("folds keep together")
    return drawn


def markdown(table: pd.DataFrame, dataset: str, about: Mapping[str, str]) -> str:
    """README.md: mean, minimum and maximum over the repetitions for each kind of labels and folds, and what they show.

    Args:
        table: of `compare`.
        dataset: its name.
        about: what was computed: title -> text.
    """
    first = table[table["labels"] == DATASET_LABELS].iloc[0]
    lines = [
        "# How much a split that is not by patient inflates the results",
        "",
        f"{first['n']} nodule slices ({first['n_positive']} malignant) of {first['n_patients']} patients of {dataset},",
        "frozen features, logistic regression, cross-validated; out-of-fold AUROC of slices: mean of",
        f"{table['draw'].nunique()} repetitions (minimum to maximum).",
        "",
        *(f"- {title}: {text}" for title, text in about.items()),
        "",
        *markdown_table(table_rows(table)),
    ]
    return "\n".join([*lines, "", *findings(table), "", EXPLANATION])


def table_rows(table: pd.DataFrame) -> list[tuple[str, ...]]:
    """A header, then a row for each kind of folds: what they keep together, and the AUROC for each kind of labels."""
    rows: list[tuple[str, ...]] = [("folds keep together", DATASET_LABELS, f"{RANDOM_LABELS} per patient")]
    for kept, shown in SHOWN.items():
        own = table[table["kept_together"] == kept]
        if len(own):
            cells = [own.loc[own["labels"] == labels, "auroc"] for labels in (DATASET_LABELS, RANDOM_LABELS)]
            texts = (f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})" for values in cells)
            rows.append((shown, *texts))
    return rows


def findings(table: pd.DataFrame) -> list[str]:
    """A line for each kind of leaking folds: its gain over folds by patient, and whether that is certain.

    Args:
        table: of `compare`.
    """
    gains = {(row["kept_together"], row["labels"]): row for row in differences(table).to_dict("records")}
    lines = []
    for kept in (kept for kept in SHOWN if (kept, DATASET_LABELS) in gains):
        real, random = gains[kept, DATASET_LABELS], gains[kept, RANDOM_LABELS]
        if random["min"] > 0:
            conclusion = (
                "random labels cannot be learnt, so in every repetition these folds let the model recognise a patient "
                "or a nodule from its other slices"
            )
        elif real["min"] > 0:
            conclusion = "higher in every repetition with the dataset's labels, but not with random labels"
        else:
            conclusion = "not higher in every repetition, so a leak is not shown"
        real_gain, random_gain = (
            f"{gain['mean']:+.3f} ({gain['min']:+.3f} to {gain['max']:+.3f})" for gain in (real, random)
        )
        lines.append(
            f"- Folds by {NAMES[kept]} instead of by patient change the AUROC by {real_gain} with {DATASET_LABELS}, "
            f"{random_gain} with {RANDOM_LABELS}; {conclusion}."
        )
    return lines


if __name__ == "__main__":
    command_line.main("leak_demo", TrainConfig, run, jobs=jobs)
