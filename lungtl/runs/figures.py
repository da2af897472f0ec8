"""Figures of an evaluation."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lungtl.data.bags import read_frames
from lungtl.data.store.reader import Store
from lungtl.evaluation.document import Document
from lungtl.evaluation.figures import (
    attention_along_z,
    confusion,
    montage,
    precision_recall,
    reliability,
    roc,
    save,
    score_histogram,
    subgroup_forest,
)
from lungtl.evaluation.figures.montage import windowed
from lungtl.evaluation.figures.outlines import Outline, circle, on_slice
from lungtl.evaluation.localisation import weights_differ
from lungtl.models.gradcam import slice_heatmaps
from lungtl.models.inference import Predictions
from lungtl.runs.scored_model import ScoredModel
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN

log = logging.getLogger(__name__)
SHOWN = {"hit": 8, "false alarm": 4, "miss": 4}
"""Cases in the montage, of each kind at most."""
SLICE_NAMES = {UNKNOWN: "unlabelled", NON_NODULE: "non-nodule", BENIGN: "benign", MALIGNANT: "malignant"}


def draw(
    folder: Path,
    store: Store,
    model: ScoredModel,
    predictions: Predictions,
    table: pd.DataFrame,
    controls: dict[str, NDArray[np.float64]],
    document: Document,
    resamples: int,
) -> None:
    """Draw the figures of an evaluation; curves that one class leaves undefined are omitted, which is logged.

    Args:
        folder: gets the PNGs; is created.
        store: the bags' store.
        model: predicted them.
        predictions: of the bags.
        table: bag_id, patient_id, label, probability, calibrated of the bags.
        controls: name -> probabilities in the order of `table`.
        document: their scores.
        resamples: of patients, for intervals and bands, as for the scores.
    """
    folder.mkdir(exist_ok=True)
    labels, p, patients = table["label"].to_numpy(), table["probability"].to_numpy(), table["patient_id"].to_numpy()
    bag = document["bag"]
    fitted = model.chosen is not None and model.chosen.kind in document["calibrated"]
    thresholds = {name: point and point["threshold"] for name, point in document["operating_points"].items()}
    curves = {"roc": roc, "precision_recall": precision_recall}
    if labels.min() == labels.max():
        log.info("omitted figures: %s (%s)", ", ".join(curves), bag["metrics"]["auroc"]["undefined"])
        curves = {}
    for name, curve in curves.items():
        figure = curve(labels, p, patients, controls, thresholds=thresholds, resamples=resamples)
        save(figure, folder / f"{name}.png")
    save(reliability(labels, p, table["calibrated"] if fitted else None), folder / "reliability.png")
    save(score_histogram(labels, p, bag["threshold"]), folder / "scores.png")
    save(confusion(labels, p, bag["threshold"]), folder / "confusion.png")
    if document["subgroups"]:
        overall = bag["metrics"]["auroc"]["value"]
        save(subgroup_forest(document["subgroups"], overall), folder / "subgroups.png")
    slices = dict(list(predictions.slices.groupby("bag_id")))
    threshold = thresholds.get("youden") or bag["threshold"]
    _draw_montage(folder, store, model, slices, table, weights_differ(predictions.slices), threshold)
    for name, row in _examples(table).items():
        own = slices[row.bag_id]
        if len(own) > 1:
            title = f"{row.patient_id}: label {row.label}, p = {row.probability:.2f}"
            p_slices = own["p_malignant"] if model.slices_trained else None
            figure = attention_along_z(own["z_mm"], own["weight"], p_slices, own["label"], title)
            save(figure, folder / f"attention_{name}.png")


def _draw_montage(
    folder: Path,
    store: Store,
    model: ScoredModel,
    slices: dict[Any, pd.DataFrame],
    table: pd.DataFrame,
    weighted: bool,
    threshold: float,
) -> None:
    """The network's view of one slice of the most certain hits and the worst errors, with and without heatmaps."""
    preprocessor = model.classifier.preprocessor
    images, captions, labels, places, aspects, outlines = [], [], [], [], [], []
    diameters = nodule_diameters(store)
    for kind, row in shown_cases(table, threshold):
        top = representative_slice(slices[row.bag_id], weighted)
        hu, spacing_mm = store.voxels(str(row.bag_id))[top.slice_index], store.spacing_mm(str(row.bag_id))
        seen = preprocessor.box((hu.shape[0], hu.shape[1]), spacing_mm)
        images.append(windowed(hu[seen], preprocessor.windows[0]))
        aspect = spacing_mm[0] / spacing_mm[1]
        aspects.append(aspect if np.isfinite(aspect) else 1.0)
        corner, shape = (seen[0].start, seen[1].start), (images[-1].shape[0], images[-1].shape[1])
        known = store.outlines(str(row.bag_id))
        outlines.append(
            on_slice(known, int(top.slice_index), corner, shape)
            if known
            else central_circle(hu.shape, corner, spacing_mm, diameters.get(row.bag_id, np.nan))
        )
        place = "" if np.isnan(top.z_mm) else f" z {top.z_mm:.0f} mm"
        captions.append(
            f"{row.patient_id}{place}\n{kind} p={row.probability:.2f}\nw={top.weight:.2f} {SLICE_NAMES[top.label]}"
        )
        labels.append(int(top.label))
        places.append((str(row.bag_id), int(top.slice_index), seen))
    shown = "most heavily weighted slice" if weighted else "middle slice (equal weights)"
    title = f"Most certain hits, then the worst errors, at the threshold {threshold:.2f}: {shown}"
    save(montage(images, captions, labels, title, aspects=aspects, outlines=outlines), folder / "montage.png")
    if model.heatmaps:
        try:
            maps = [_heatmap(store, model, bag_id, index)[seen] for bag_id, index, seen in places]
        except LungtlError as error:  # the extra is not installed, or the network has no maps
            log.info("no heatmaps: %s", error)
        else:
            save(montage(images, captions, labels, title, maps, aspects, outlines), folder / "heatmaps.png")


def nodule_diameters(store: Store) -> dict[str, float]:
    """bag_id -> diameter in mm of the nodule that is at the centre of the bag's slices; empty for other stores.

    Only a store of single nodules says where they are: it was cut out around them.
    """
    if store.manifest["recipe"].get("bag") != "nodule":
        return {}
    return dict(zip(store.bags["bag_id"], store.bags["diameter_mm"], strict=True))


def central_circle(
    shape: tuple[int, ...], corner: tuple[int, int], spacing_mm: tuple[float, float], diameter_mm: float
) -> list[Outline]:
    """The circle of a nodule at the centre of a slice, in the pixels of what the network saw of the slice.

    Args:
        shape: (rows, columns) of the slice.
        corner: the first row and column that the network saw.
        spacing_mm: (row, column).
        diameter_mm: of the nodule.

    Returns:
        No outline if the diameter or the spacing is unknown.
    """
    row, column = ((n - 1) / 2 - first for n, first in zip(shape, corner, strict=True))
    return circle(row, column, diameter_mm, spacing_mm)


def shown_cases(table: pd.DataFrame, threshold: float) -> list[tuple[str, Any]]:
    """The cases of the montage: the most certain hits, the most certain false alarms, the worst misses.

    Args:
        table: label, probability and more of each case.
        threshold: probability from which a case counts as positive.

    Returns:
        "hit", "false alarm", "miss" or, where nothing else fills the montage, "rejected", and the case's row.
    """
    ordered = table.sort_values("probability", ascending=False)
    called, positive = ordered["probability"] >= threshold, ordered["label"] == 1
    kinds = {"hit": ordered[called & positive], "false alarm": ordered[called & ~positive],
             "miss": ordered[~called & positive][::-1], "rejected": ordered[~called & ~positive]}  # fmt: skip
    chosen = [(kind, row) for kind, most in SHOWN.items() for row in kinds[kind].head(most).itertuples()]
    left = [(kind, row) for kind, cases in kinds.items() for row in cases[SHOWN.get(kind, 0) :].itertuples()]
    chosen += left[: sum(SHOWN.values()) - len(chosen)]
    order = list(kinds)
    return sorted(chosen, key=lambda case: order.index(case[0]))


def representative_slice(slices: pd.DataFrame, weighted: bool) -> Any:
    """The most heavily weighted slice of a bag, or its middle one.

    Args:
        slices: index, weight and more of the bag's slices, in order.
        weighted: whether the aggregator gives slices different weights.

    Returns:
        The slice's row, with `index` renamed to `slice_index`.
    """
    one = slices.nlargest(1, "weight") if weighted else slices.iloc[[len(slices) // 2]]
    return next(one.rename(columns={"index": "slice_index"}).itertuples())


def _heatmap(store: Store, model: ScoredModel, bag_id: str, index: int) -> NDArray[np.float32]:
    voxels = store.voxels(bag_id)
    rows = None if model.features is None else model.features.rows(bag_id, 0, None)
    needed = np.arange(len(voxels)) if rows is None else np.array([index])
    frames = read_frames(voxels, needed, model.classifier.preprocessor.neighbours)
    heatmap: NDArray[np.float32] = slice_heatmaps(model.classifier, frames, [index], rows, store.spacing_mm(bag_id))[0]
    return heatmap


def _examples(table: pd.DataFrame) -> dict[str, Any]:
    """The most confident true positive, false negative and false positive."""
    ordered = table.sort_values("probability", ascending=False)
    chosen: dict[str, Any] = {}
    for name, label, place in (("surest_hit", 1, 0), ("worst_miss", 1, -1), ("worst_alarm", 0, 0)):
        rows = list(ordered[ordered["label"] == label].itertuples())
        if rows:
            chosen[name] = rows[place]
    return chosen
