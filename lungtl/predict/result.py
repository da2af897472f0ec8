"""All that is known of one predicted series or nodule: what pages, tables and DICOM objects are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lungtl.evaluation.figures.outlines import Outline
from lungtl.runs.input_warnings import InputWarning
from lungtl.runs.model import Model, Prediction
from lungtl.sources.ct.series import Series
from lungtl.sources.points import Point

EQUAL = 1e-9
"""Weights of slices that differ by less are equal."""


@dataclass(frozen=True)
class Decision:
    """Positive or negative at an operating point that was chosen on validation cases."""

    threshold: float  # the (uncalibrated) probability from which a case is positive
    positive: bool


@dataclass(frozen=True)
class KeySlice:
    """A native slice that weighed much.

    Attributes:
        rank: 1 weighed most.
        z_mm: its position.
        weight: of the 1 mm slices that are nearest to it, together.
        sop_instance_uid: of its file.
        instance_number: which viewers show; None if its file has none.
        image: uint8 [H, W], its native pixels in the lung window; of a nodule, the square that was cut out.
        heatmap: float32 [H, W] from 0 to 1, Grad-CAM of the most heavily weighted of its 1 mm slices, scaled to the
            highest value among the key slices; None where no heatmaps are computed.
        outlines: of nodules in the image, where they are known.
    """

    rank: int
    z_mm: float
    weight: float
    sop_instance_uid: str
    instance_number: int | None
    image: NDArray[np.uint8]
    heatmap: NDArray[np.float32] | None
    outlines: Sequence[Outline] = ()


@dataclass(frozen=True)
class ModelResult:
    """What one model predicts.

    Attributes:
        name: of the model, unique among those of the command.
        model: as opened.
        prediction: of an ensemble, its mean.
        decisions: operating point -> decision; None where the model has no such threshold.
        with_covariates: the probability with diameter and density; None if the model or the point has none.
    """

    name: str
    model: Model
    prediction: Prediction
    decisions: Mapping[str, Decision | None]
    with_covariates: float | None = None


@dataclass(frozen=True)
class SeriesResult:
    """One predicted series, or one nodule of it.

    Attributes:
        key: names its folder: the series UID, and of a nodule `UID_NUMBER`, as in `dataset=dicom`.
        path: of the series, relative to the input; never shown on the page.
        series: the files.
        point: of a nodule.
        models: at least one, in the order of the command line.
        probability: mean over the models.
        spread: standard deviation between the networks of all models; None for a single network.
        slices: a row for each 1 mm slice: index, z_mm, sop_instance_uid and instance_number of the nearest native
            slice, weight (mean over the models), p_non_nodule, p_benign, p_malignant.
        key_slices: at most six, by rank.
        pages: uint8 [H, W, 3] each, all of one size: the page as pictures. Empty before they are drawn.
    """

    key: str
    path: str
    series: Series
    point: Point | None
    models: tuple[ModelResult, ...]
    probability: float
    spread: float | None
    slices: pd.DataFrame
    key_slices: tuple[KeySlice, ...]
    pages: tuple[NDArray[np.uint8], ...] = ()

    @property
    def warnings(self) -> list[InputWarning]:
        """Of all models, each code once."""
        found = {warning.code: warning for each in self.models for warning in each.prediction.warnings}
        return list(found.values())

    @property
    def equal_weights(self) -> bool:
        """Whether all slices weigh the same, so that the key slices are at equal distances."""
        return bool(np.ptp(self.slices["weight"]) < EQUAL)
