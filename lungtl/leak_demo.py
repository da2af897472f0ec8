"""`python -m lungtl.leak_demo`: how good a model seems when patients stand on two sides of a split.

The slices of a nodule are almost copies of each other, and one patient's nodules share a scanner, a dose and a body. A
split that separates them lets a model recognise instead of judge. Here frozen features and a logistic regression tell
malignant from benign nodule slices, cross-validated three times: with folds that keep patients together, as everywhere
else in lungtl, and with folds that keep together only the slices of a bag, or nothing. A second time the label of each
patient is drawn by lot, so that nothing can be learnt: what other folds then say above folds by patient is recognition
alone.

The leaking folds exist in `lungtl.evaluation.leakage` only, and no model comes out of it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lungtl.data.store.opening import open_store
from lungtl.evaluation.leakage import BAG, PATIENT, SLICE, Floats, compare, differences
from lungtl.evaluation.leakage import DATASET_LABELS as GIVEN
from lungtl.evaluation.leakage import RANDOM_LABELS as LOTS
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
DRAWS = 5  # of the folds and of the lots
EXPLANATION = """\
![AUROC by kind of folds](leak.png)

Only the first line of the table is a result. With labels by lot nothing can be learnt of other patients, and an honest
estimate is near 0.5 (slightly below: a fold with more positives than its share leaves fewer to train on).
`lungtl.train` has no split but by patient: it refuses a patient on two sides, whoever put it there.

table.csv has 95 % intervals by bootstrap over patients. They take the predictions of all folds for those of one fixed
model, so they are too narrow. Written by `python -m lungtl.leak_demo`.
"""
SHOWN = {PATIENT: "patients", BAG: "bags (nodules, scans)", SLICE: "nothing (slices at random)"}


def run(config: TrainConfig) -> None:
    """Write table.csv, leak.png and README.md, and print their folder."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.evaluation.figures.canvas import save
    from lungtl.sources.lidc_labels import describe_labels
    from lungtl.training.build import build_classifier

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    store = open_store(config)
    classifier = build_classifier(config, store.value_range)
    rows, features = nodule_slices(store, classifier, config)
    table = compare(rows, features, config.split.folds, config.split.seed, DRAWS)
    table.to_csv(folder / "table.csv", index=False)
    dataset = str(config.dataset.get("name", store.name.rpartition("-")[0]))
    save(figure(table, dataset), folder / "leak.png")
    about = {
        "command": f"`{command(hydra.overrides.task)}`",
        "store": f"{store.name}, fingerprint {store.fingerprint}",
        "labels": describe_labels(store.manifest["recipe"]),
        "image": image(classifier.preprocessor),
        "features": f"{classifier.backbone.name}, frozen",
    }
    text = markdown(table, dataset, about)
    (folder / "README.md").write_text(text)
    log.info("%s", text)
    print(folder)


def command(overrides: Iterable[str]) -> str:
    """The command line; of what lies on this machine the name alone."""
    named = [override for override in overrides if override.partition("=")[0] not in ("data_dir", "workers")]
    parts = (override.partition("=") for override in named)
    return " ".join(["python -m lungtl.leak_demo", *(f"{key}={Path(value).name}" for key, _, value in parts)])


def image(preprocessor: SlicePreprocessor) -> str:
    """Which pixels of a slice the backbone sees."""
    cut = "whole slices" if preprocessor.crop is None else f"the central {preprocessor.crop} pixels"
    return f"{cut}, {preprocessor.size} pixels a side for the backbone"


def nodule_slices(store: Store, classifier: BagClassifier, config: TrainConfig) -> tuple[pd.DataFrame, Floats]:
    """The slices that show a nodule, and what the frozen backbone computes of each.

    Returns:
        bag_id, patient_id, malignant (0 or 1), one row a slice; and float32 [N, D].

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
        raise LungtlError(f"the features do not fit into cache.max_gb={config.cache.max_gb:g}; give more")
    features = np.concatenate([cached.rows(bag_id).float().numpy() for bag_id in store.bags["bag_id"]])
    slices = store.slices.merge(store.bags[["bag_id", "patient_id"]], on="bag_id", validate="many_to_one")
    slices["malignant"] = (labels == MALIGNANT).to_numpy(int)
    shown = labels.isin([BENIGN, MALIGNANT]).to_numpy()
    return slices.loc[shown, ["bag_id", "patient_id", "malignant"]].reset_index(drop=True), features[shown]


def figure(table: pd.DataFrame, dataset: str) -> Figure:
    """A panel for each kind of labels, a line for each kind of folds, a mark for each draw."""
    from lungtl.evaluation.figures.canvas import BLUE, GREY, ORANGE, VERMILLION, new_figure, tidy

    styles = {PATIENT: ("o", BLUE), BAG: ("s", ORANGE), SLICE: ("^", VERMILLION)}
    kinds = [kept for kept in SHOWN if (table["kept_together"] == kept).any()]
    drawn = new_figure(2.0 + 0.5 * len(kinds))
    first = table.iloc[0]
    drawn.suptitle(
        f"{dataset}: {first['n']} nodule slices of {first['n_patients']} patients\n"
        "a mark a draw of the folds, their mean above",
        fontsize=10,
    )
    panels = drawn.subplots(1, 2, sharex=True, sharey=True)
    lowest = min(0.4, table["auroc"].min()) - 0.05
    for axes, labels in zip(panels, (GIVEN, LOTS), strict=True):
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
    """README.md: the mean of the draws, lowest and highest, for each kind of labels and folds, and what that shows.

    Args:
        table: of `compare`.
        dataset: its name.
        about: what was computed: title -> text.
    """
    first = table[table["labels"] == GIVEN].iloc[0]
    lines = [
        "# What a split that is not by patient would have claimed",
        "",
        f"{first['n']} nodule slices ({first['n_positive']} malignant) of {first['n_patients']} patients of {dataset},",
        "frozen features, logistic regression, cross-validated; AUROC of slices, out of fold: mean of",
        f"{table['draw'].nunique()} draws of the folds (lowest to highest).",
        "",
        *(f"- {title}: {text}" for title, text in about.items()),
        "",
        f"| folds keep together | {GIVEN} | {LOTS} for each patient |",
        "| --- | --- | --- |",
    ]
    for kept, shown in SHOWN.items():
        own = table[table["kept_together"] == kept]
        if len(own):
            cells = [own.loc[own["labels"] == labels, "auroc"] for labels in (GIVEN, LOTS)]
            texts = (f"{values.mean():.3f} ({values.min():.3f} to {values.max():.3f})" for values in cells)
            lines.append(f"| {shown} | {' | '.join(texts)} |")
    return "\n".join([*lines, "", *findings(table), "", EXPLANATION])


def findings(table: pd.DataFrame) -> list[str]:
    """A line each kind of leaking folds: what they claim above folds by patient on the same draws, and if that is sure.

    Args:
        table: of `compare`.
    """
    found = {(row["kept_together"], row["labels"]): row for row in differences(table).to_dict("records")}
    lines = []
    for kept in (kept for kept in SHOWN if (kept, GIVEN) in found):
        given, lots = found[kept, GIVEN], found[kept, LOTS]
        says = [f"{one['mean']:+.3f} ({one['min']:+.3f} to {one['max']:+.3f})" for one in (given, lots)]
        if lots["min"] > 0:
            shows = (
                "labels by lot cannot be learnt, so in every draw these folds let the model recognise a patient or a "
                "nodule whose other slices it was trained on"
            )
        elif given["min"] > 0:
            shows = "more in every draw with the dataset's labels, not with labels by lot"
        else:
            shows = "not more in every draw, so these draws do not show a leak"
        lines.append(
            f"- AUROC with folds by {kept}, less that with folds by patient: {says[0]} with {GIVEN}, {says[1]} "
            f"with {LOTS}; {shows}."
        )
    return lines


if __name__ == "__main__":
    command_line.main("leak_demo", TrainConfig, run, jobs=jobs)
