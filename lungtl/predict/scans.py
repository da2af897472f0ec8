"""Predict a whole series: one probability, its slices, and those that weighed most."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lungtl.data.bags import read_frames
from lungtl.evaluation.figures.montage import windowed
from lungtl.evaluation.figures.outlines import Outline, on_slice
from lungtl.models.gradcam import slice_heatmaps
from lungtl.predict.models import NamedModel, combine
from lungtl.predict.result import EQUAL, KeySlice, ModelResult, SeriesResult
from lungtl.settings.errors import LungtlError
from lungtl.settings.sections import WINDOWS
from lungtl.sources.ct.prepare import prepare_series
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import Volume, read_volume
from lungtl.sources.lidc_outlines import native_outlines

log = logging.getLogger(__name__)
SHOWN = 6
"""Key slices."""
Floats = NDArray[np.float32]


def predict_scan(
    models: Sequence[NamedModel], series: Series, path: str, max_gap_mm: float
) -> tuple[SeriesResult, Volume]:
    """Predict a series with all models.

    Returns:
        The result, without pages, and the volume that the first model saw: 1 mm slices, maybe cropped.

    Raises:
        Refused: the series cannot be read or predicted.
    """
    crops = [each.model.provenance["crop"] for each in models]
    prepared = {crop: prepare_series(series, max_gap_mm, crop) for crop in dict.fromkeys(crops)}
    results = tuple(
        each.result(each.model.predict_prepared(series, *prepared[crop]))
        for each, crop in zip(models, crops, strict=True)
    )
    probability, spread, columns = combine(results)
    volume, details = prepared[crops[0]]
    slices = native_slices(series, volume.z_mm).assign(**columns)
    chosen = choose_key_slices(slices)
    heatmaps = mean_heatmaps(results, [prepared[crop][0] for crop in crops], chosen)
    if heatmaps is not None and len(set(crops)) == 1:
        heatmaps = _uncropped(heatmaps, series.shape, details["crop_top"], details["crop_left"])
    native = slices["native"].to_numpy()[chosen]
    images, known = _native_images(series, native), native_outlines(series)
    outlines = [on_slice(known, index, (0, 0), series.shape) for index in native]
    return (
        SeriesResult(series.uid, path, series, None, results, probability, spread, slices.drop(columns="native"),
                     key_slices(series, slices, chosen, images, heatmaps, outlines)),
        volume,
    )  # fmt: skip


def native_slices(series: Series, z_mm: NDArray[np.float64]) -> pd.DataFrame:
    """The nearest native slice of each 1 mm slice: index, z_mm, native, sop_instance_uid, instance_number."""
    native = np.abs(series.z_mm[None, :] - z_mm[:, None]).argmin(axis=1)
    files = [series.files[index] for index in native]
    return pd.DataFrame(
        {"index": np.arange(len(z_mm)), "z_mm": z_mm, "native": native,
         "sop_instance_uid": [file.sop_uid for file in files],
         "instance_number": pd.array([file.instance_number for file in files], dtype="Int64")}
    )  # fmt: skip


def choose_key_slices(slices: pd.DataFrame) -> list[int]:
    """The indices of the 1 mm slices that weighed most, at most one for each native slice, most heavily weighted first.

    If all weigh the same, slices at equal distances.
    """
    if np.ptp(slices["weight"]) < EQUAL:
        even = np.linspace(0, len(slices) - 1, min(SHOWN, len(slices)) * 2 + 1).round().astype(int)[1::2]
        return list(dict.fromkeys(even.tolist()))
    ordered = slices.sort_values("weight", ascending=False, kind="stable")
    return [int(index) for index in ordered.drop_duplicates("native")["index"].head(SHOWN)]


def mean_heatmaps(results: Sequence[ModelResult], volumes: Sequence[Volume], chosen: list[int]) -> Floats | None:
    """Grad-CAM of some slices, the mean over all networks: float32 [n, H, W] from 0 to 1; None if there are none.

    The maps of each network are scaled to the highest value in these slices.
    """
    if len({volume.hu.shape for volume in volumes}) > 1:
        log.info("no heatmaps: the models see different parts of the slices")
        return None
    maps = []
    try:
        for each, volume in zip(results, volumes, strict=True):
            for network, rows in zip(each.model.networks, each.prediction.features, strict=True):
                frames = read_frames(volume.hu, np.array(chosen), network.classifier.preprocessor.neighbours)
                maps.append(slice_heatmaps(network.classifier, frames, chosen, rows, volume.pixel_spacing_mm))
    except LungtlError as error:  # the extra is not installed, or the network has no maps
        log.info("no heatmaps: %s", error)
        return None
    scaled = [each / each.max() if each.max() > 0 else each for each in maps]
    mean: NDArray[np.float32] = np.mean(scaled, axis=0, dtype=np.float32)
    return mean


def key_slices(
    series: Series,
    slices: pd.DataFrame,
    chosen: Sequence[int],
    images: NDArray[np.uint8],
    heatmaps: Floats | None,
    outlines: Sequence[Sequence[Outline]],
) -> tuple[KeySlice, ...]:
    """The key slices, by rank, with their pictures in the same order."""
    found = []
    for place, index in enumerate(chosen):
        row = slices.iloc[index]
        file = series.files[int(row["native"])]
        found.append(
            KeySlice(place + 1, file.position_mm[2], float(row["weight"]), file.sop_uid, file.instance_number,
                     images[place], None if heatmaps is None else heatmaps[place], outlines[place])
        )  # fmt: skip
    return tuple(found)


def _native_images(series: Series, native: NDArray[np.intp]) -> NDArray[np.uint8]:
    """Some native slices in the lung window: uint8 [n, H, W]; decoded again, since all would take as much memory."""
    ascending = np.unique(native)
    hu = read_volume(replace(series, files=tuple(series.files[index] for index in ascending))).hu
    return np.stack([windowed(hu[place], WINDOWS["lung"]) for place in np.searchsorted(ascending, native)])


def _uncropped(heatmaps: Floats, shape: tuple[int, int], top: int, left: int) -> Floats:
    """Heatmaps of cropped slices in the pixels of whole slices."""
    whole = np.zeros((len(heatmaps), *shape), np.float32)
    whole[:, top : top + heatmaps.shape[1], left : left + heatmaps.shape[2]] = heatmaps
    return whole
