"""Predict the nodules at given points of a series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lungtl.bundle import load_covariates
from lungtl.evaluation.figures.montage import windowed
from lungtl.evaluation.figures.outlines import circle, on_slice
from lungtl.models.inference import pool_bag
from lungtl.predict.models import NamedModel, combine
from lungtl.predict.result import ModelResult, SeriesResult
from lungtl.predict.scans import choose_key_slices, key_slices, mean_heatmaps, native_slices
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError
from lungtl.settings.sections import WINDOWS
from lungtl.sources.ct.cut import DEPTH_MM, FIELD_MM, corner, cut_nodule, cut_out, locate
from lungtl.sources.ct.prepare import series_details
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import Volume
from lungtl.sources.density import greatest_density
from lungtl.sources.lidc_outlines import native_outlines
from lungtl.sources.points import Point
from lungtl.training.probe import Probe


@dataclass(frozen=True)
class Cut:
    """How nodules are cut out for a model: as in its training data."""

    field_mm: float
    depth_mm: float

    @classmethod
    def of(cls, model: Model) -> Cut:
        """Read it from a bundle; raises LungtlError if the bundle does not say, and its image depends on it."""
        provenance = model.provenance
        depth_mm = float(provenance.get("depth_mm") or DEPTH_MM)
        if (field_mm := provenance.get("field_mm")) is not None:
            return cls(float(field_mm), depth_mm)
        seen = [network.classifier.preprocessor.crop_mm for network in model.networks]
        if all(seen):  # what is cut out around them does not matter
            return cls(max(FIELD_MM, *(max(mm) for mm in seen)), depth_mm)
        raise LungtlError(
            f"{model.folder} does not say how large its nodules were cut out: an earlier version of lungtl trained it; "
            "train it again"
        )


def predict_point(
    models: Sequence[NamedModel], series: Series, path: str, native: Volume, point: Point
) -> SeriesResult:
    """Predict one nodule with all models.

    Args:
        models: of nodules.
        series: with an acceptable gap.
        path: of the series.
        native: the volume of the series.
        point: of the nodule.

    Raises:
        Refused: the point is outside the volume, or the nodule cannot be predicted.
    """
    cuts = {each.name: Cut.of(each.model) for each in models}
    volumes = {
        cut: cut_nodule(series, point.position_mm, point.diameter_mm, cut.field_mm, cut.depth_mm, native)
        for cut in dict.fromkeys(cuts.values())
    }
    details = series_details(series)
    results = tuple(_predict(each, volumes[cuts[each.name]], point, details) for each in models)
    probability, spread, columns = combine(results)
    cut = cuts[models[0].name]
    slices = native_slices(series, volumes[cut].z_mm).assign(**columns)
    chosen = choose_key_slices(slices)
    heatmaps = mean_heatmaps(results, [volumes[cuts[each.name]] for each in models], chosen)
    row, column = locate(series, point.position_mm)
    places = slices["native"].to_numpy()[chosen]
    shown = [
        windowed(cut_out(series, row, column, series.z_mm[[index]], cut.field_mm, native)[0], WINDOWS["lung"])
        for index in places
    ]
    top, left = corner(series, row, column, cut.field_mm)
    known, (height, width) = native_outlines(series), shown[0].shape
    outlines = [on_slice(known, index, (top, left), (height, width)) for index in places]
    if not any(outlines):
        outlines = [circle(row - top, column - left, point.diameter_mm, series.pixel_spacing_mm)] * len(places)
    return SeriesResult(
        f"{series.uid}_{point.number}", path, series, point, results, probability, spread,
        slices.drop(columns="native"), key_slices(series, slices, chosen, np.stack(shown), heatmaps, outlines),
    )  # fmt: skip


def _predict(each: NamedModel, volume: Volume, point: Point, details: Mapping[str, Any]) -> ModelResult:
    prediction = each.model.predict_voxels(volume.hu, volume.z_mm, volume.pixel_spacing_mm, details)
    density = greatest_density([volume.hu], volume.pixel_spacing_mm, [point.diameter_mm])
    combined = []
    for network, probability, rows in zip(each.model.networks, prediction.of_members, prediction.features, strict=True):
        regression = load_covariates(network.folder, network.config)
        if regression is None:
            return each.result(prediction)
        known = pd.DataFrame({"probability": [probability], "diameter_mm": [point.diameter_mm], "density": [density]})
        if isinstance(regression, Probe):
            predicted = regression.predict(pool_bag(network.classifier, rows)[None], known)
        else:
            predicted = regression.predict(known)
        combined.append(float(predicted[0]))
    mean = float(np.mean(combined))
    return each.result(prediction, mean if np.isfinite(mean) else None)
