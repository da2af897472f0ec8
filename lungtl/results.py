"""What an evaluation leaves behind: metrics.json, predictions.csv, slices.csv and figures."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN
from lungtl.store.reader import Store

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.training.inference import Predictions

log = logging.getLogger(__name__)
METRICS, PREDICTIONS, SLICES, FIGURES = "metrics.json", "predictions.csv", "slices.csv", "figures"
SHOWN = 16  # slices in the montage
SLICE_NAMES = {UNKNOWN: "unlabelled", NON_NODULE: "non-nodule", BENIGN: "benign", MALIGNANT: "malignant"}


def write_results(
    folder: Path,
    store: Store,
    predictions: Predictions,
    bags: pd.DataFrame,
    train: pd.DataFrame | None,
    split: str,
    window: tuple[float, float],
    *,
    threshold: float = 0.5,
    resamples: int = 1000,
    **context: Any,
) -> dict[str, Any]:
    """Score predictions and write everything.

    Args:
        folder: gets the files.
        store: whose bags were predicted.
        predictions: of the classifier.
        bags: bag_id, patient_id, label, diameter_mm, split of the predicted bags; labels 0 or 1.
        train: likewise of the training bags, for the controls; None leaves the controls out.
        split: the name under which the scores stand.
        window: (centre, width) through which slices are shown.
        threshold: probability from which a bag counts as positive.
        resamples: of patients, for the intervals.
        context: further keys of metrics.json.

    Returns:
        The document that metrics.json holds.
    """
    from lungtl.evaluation.controls import control_probabilities
    from lungtl.evaluation.metrics import score
    from lungtl.evaluation.schema import evaluation_document

    folder.mkdir(parents=True, exist_ok=True)
    table = bags.merge(predictions.bags, on="bag_id", validate="one_to_one")
    table[["bag_id", "patient_id", "label", "probability", "split"]].to_csv(folder / PREDICTIONS, index=False)
    predictions.slices.to_csv(folder / SLICES, index=False)
    options: dict[str, Any] = {"threshold": threshold, "resamples": resamples}
    known = predictions.slices.merge(bags[["bag_id", "patient_id"]], on="bag_id").query("label != @UNKNOWN")
    controls = control_probabilities(train, table) if train is not None else {}
    document = evaluation_document(
        split=split,
        bag=score(table["label"], table["probability"], table["patient_id"], **options),
        slices=score(known["label"] == MALIGNANT, known["p_malignant"], known["patient_id"], **options)
        if len(known)
        else None,
        controls={name: score(table["label"], p, table["patient_id"], **options) for name, p in controls.items()},
        **context,
    )
    (folder / METRICS).write_text(json.dumps(document, indent=2, allow_nan=False))
    _draw(folder / FIGURES, store, predictions, table, controls, threshold, window)
    return document


def print_summary(document: dict[str, Any], folder: Path, next_steps: list[str]) -> None:
    """The metrics as a table, where everything is, and what to type next; on standard error."""
    from rich.console import Console
    from rich.table import Table

    from lungtl.evaluation.schema import rows_for_table

    console = Console(stderr=True, width=None if sys.stderr.isatty() else 120)
    bag = document["bag"]
    title = f"{document['split']}: {bag['n']} bags of {bag['n_patients']} patients, {bag['n_positive']} positive"
    header, *rows = rows_for_table(document)
    table = Table(title=title, caption="95 % intervals: bootstrap over patients", title_justify="left")
    for column in header:
        table.add_column(column, no_wrap=column == header[0])
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if document["slice"] is not None:
        auroc = next(row for row in rows_for_table(document, "slice") if row[0] == "auroc")[1]
        console.print(f"slices, malignant against the rest: AUROC {auroc}")
    console.print(f"results: {folder}", soft_wrap=True)
    for step in next_steps:
        console.print(f"  {step}", soft_wrap=True, highlight=False)


def _draw(
    folder: Path,
    store: Store,
    predictions: Predictions,
    table: pd.DataFrame,
    controls: dict[str, NDArray[np.float64]],
    threshold: float,
    window: tuple[float, float],
) -> None:
    from lungtl.evaluation.figures.canvas import save
    from lungtl.evaluation.figures.curves import precision_recall, roc
    from lungtl.evaluation.figures.decisions import confusion, reliability
    from lungtl.evaluation.figures.slices import attention_along_z, montage

    folder.mkdir(exist_ok=True)
    labels, p, patients = table["label"].to_numpy(), table["probability"].to_numpy(), table["patient_id"].to_numpy()
    save(roc(labels, p, patients, controls), folder / "roc.png")
    save(precision_recall(labels, p, patients, controls), folder / "precision_recall.png")
    save(reliability(labels, p), folder / "reliability.png")
    save(confusion(labels, p, threshold), folder / "confusion.png")
    slices = dict(list(predictions.slices.groupby("bag_id")))
    images, captions = _most_weighted(store, slices, table, window)
    save(montage(images, captions), folder / "montage.png")
    for name, row in _telling_bags(table).items():
        own = slices[row.bag_id]
        if len(own) > 1:
            title = f"{row.patient_id}: label {row.label}, p = {row.probability:.2f}"
            figure = attention_along_z(own["z_mm"], own["weight"], own["p_malignant"], own["label"], title)
            save(figure, folder / f"attention_{name}.png")


def _most_weighted(
    store: Store, slices: dict[Any, pd.DataFrame], table: pd.DataFrame, window: tuple[float, float]
) -> tuple[list[NDArray[np.uint8]], list[str]]:
    """The slice that weighed most in each of the bags with the highest probabilities."""
    images, captions = [], []
    for row in table.sort_values("probability", ascending=False).head(SHOWN).itertuples():
        own = slices[row.bag_id]
        top: Any = next(own.nlargest(1, "weight").rename(columns={"index": "slice_index"}).itertuples())
        images.append(windowed(store.voxels(str(row.bag_id))[top.slice_index], window))
        place = "" if np.isnan(top.z_mm) else f" z {top.z_mm:.0f} mm"
        captions.append(f"{row.patient_id}{place}\nw={top.weight:.2f} p={row.probability:.2f} {SLICE_NAMES[top.label]}")
    return images, captions


def _telling_bags(table: pd.DataFrame) -> dict[str, Any]:
    """The surest hit, the worst miss, and the worst false alarm."""
    ordered = table.sort_values("probability", ascending=False)
    chosen: dict[str, Any] = {}
    for name, label, place in (("surest_hit", 1, 0), ("worst_miss", 1, -1), ("worst_alarm", 0, 0)):
        rows = list(ordered[ordered["label"] == label].itertuples())
        if rows:
            chosen[name] = rows[place]
    return chosen


def windowed(hu: NDArray[np.int16], window: tuple[float, float]) -> NDArray[np.uint8]:
    """A slice through a display window (centre, width): int16 [H, W] -> uint8 [H, W]."""
    centre, width = window
    grey = (hu.astype(np.float32) - (centre - width / 2)) / width * 255
    image: NDArray[np.uint8] = np.clip(grey, 0, 255).astype(np.uint8)
    return image
