"""A trained model, ready to predict: what `lungtl.load` returns."""

from __future__ import annotations

import logging
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from lungtl.bundle import Ranges, Reference, load_bundle, load_reference, read_ranges
from lungtl.bundle.ranges import measures
from lungtl.data.field_of_view import UNKNOWN_SPACING, Spacing
from lungtl.evaluation.chosen import Chosen, read_chosen
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.inference import mean_prediction, pool_bag, predict_and_embed
from lungtl.runs.ensemble import read_ensemble
from lungtl.runs.folder import bundle_of
from lungtl.runs.input_warnings import InputWarning, compare, compare_embeddings
from lungtl.settings.errors import LungtlError
from lungtl.sources.ct.lungs import crop_to_lungs, lung_area
from lungtl.sources.ct.prepare import MAX_GAP_MM, prepare_series
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.units import unit_warnings
from lungtl.sources.ct.volume import Volume, resample_z
from lungtl.training.devices import available_device

__all__ = ["PROVENANCE", "InputWarning", "Model", "Prediction"]
log = logging.getLogger(__name__)
INT16 = np.iinfo(np.int16)
PROVENANCE = {"name", "mlflow_run_id", "store", "store_fingerprint", "value_range", "crop"}
"""Facts about a model's training that predictions and evaluations use."""


@dataclass(frozen=True)
class Prediction:
    """What a model predicts for one scan. Research software, not a medical device.

    Attributes:
        probability: of malignancy.
        calibrated: the same, calibrated on the model's validation split; None if the model has no calibration.
        slices: a row for each 1 mm slice: index, z_mm, weight (sum 1), p_non_nodule, p_benign, p_malignant (NaN if
            nothing trained the slice head).
        warnings: how the scan differs from the training scans.
        unknown: codes of warnings that could not be checked, since the scan or the training data do not state it.
        of_members: the probability of each network: several of an ensemble.
        features: of the slices, as heatmaps require them, float [S, K] of each network.
    """

    probability: float
    calibrated: float | None
    slices: pd.DataFrame
    warnings: tuple[InputWarning, ...] = ()
    unknown: tuple[str, ...] = ()
    of_members: tuple[float, ...] = ()
    features: tuple[Tensor, ...] = field(default=(), repr=False, compare=False)


@dataclass(frozen=True)
class Model:
    """A trained classifier with its calibration.

    Attributes:
        folder: of its bundle.
        classifier: in evaluation mode.
        config: of its bundle: backbone, head, aggregator, preprocessing, provenance.
        chosen: calibration and thresholds; None if the bundle has none.
        ranges: what the training bags were like, and the model's probabilities; None if the bundle has none.
        reference: embeddings of the training bags; None if the bundle has none.
        members: of an ensemble, whose `classifier` is the first member's and whose config has no architecture.
    """

    folder: Path
    classifier: BagClassifier
    config: dict[str, Any]
    chosen: Chosen | None
    members: tuple[Model, ...] = ()
    ranges: Ranges | None = None
    reference: Reference | None = None

    @classmethod
    def open(cls, folder: Path, accelerator: str = "cpu", trust: str | Collection[str] = ()) -> Model:
        """Load a run's or a bundle's folder.

        Args:
            folder: of the run or the bundle.
            accelerator: auto, cpu, gpu or mps.
            trust: packages outside lungtl whose classes the bundle may name.

        Raises:
            LungtlError: it is not a bundle, is damaged, or names a class that is not trusted.
        """
        place = bundle_of(folder)
        members: tuple[Model, ...] = ()
        if (ensemble := read_ensemble(place)) is not None:
            folders, config = ensemble
            members = tuple(cls.open(folder, accelerator, trust) for folder in folders)
            classifier = members[0].classifier
        else:
            classifier, config = load_bundle(place, trust)
        if missing := PROVENANCE - config.get("provenance", {}).keys():
            raise LungtlError(
                f"{place} is a damaged bundle (no provenance of {', '.join(sorted(missing))}); fetch it again"
            )
        classifier.to(available_device(accelerator))
        return cls(place, classifier, config, read_chosen(place), members, read_ranges(place), load_reference(place))

    @property
    def device(self) -> torch.device:
        """Where it computes."""
        return next(self.classifier.parameters()).device

    @property
    def networks(self) -> tuple[Model, ...]:
        """The members of an ensemble, or a single model itself."""
        return self.members or (self,)

    @property
    def unit(self) -> str:
        """What it was trained on: scan, nodule or patient."""
        return self.provenance.get("bag") or "scan"  # older bundles do not say

    @property
    def provenance(self) -> dict[str, Any]:
        """What the model was trained on."""
        provenance: dict[str, Any] = self.config["provenance"]
        return provenance

    def predict(self, volume_hu: ArrayLike, spacing_mm: float | Sequence[float]) -> Prediction:
        """Predict one scan.

        Args:
            volume_hu: [z, y, x], Hounsfield units, slices from the feet to the head.
            spacing_mm: between slices, or (z, y, x).

        Raises:
            LungtlError: the volume is not three-dimensional HU, or the model was trained on grey values.
        """
        self.check_hu()
        hu = np.asarray(volume_hu)
        spacing = np.asarray(spacing_mm, np.float64)
        in_mm = self.provenance["crop"] == "lungs" or any(one.classifier.preprocessor.crop_mm for one in self.networks)
        if pixels_unknown := spacing.ndim == 0 and not in_mm:
            spacing = np.array([spacing, 1.0, 1.0])  # nothing else depends on the pixel spacing
        if hu.ndim != 3 or len(hu) < 2 or spacing.shape != (3,) or not ((spacing > 0) & np.isfinite(spacing)).all():
            raise LungtlError(
                f"volume of shape {hu.shape}, spacing_mm={spacing_mm}: expected at least two slices [z, y, x] and "
                + ("three positive spacings (z, y, x)" if in_mm else "a positive spacing, or three (z, y, x)")
            )
        if spacing[0] > MAX_GAP_MM:
            raise LungtlError(
                f"spacing_mm={spacing_mm}: slices {spacing[0]:g} mm apart, expected {MAX_GAP_MM:g} at most"
            )
        if not (INT16.min < hu.min() and hu.max() <= INT16.max):  # neither is true of NaN
            raise LungtlError("volume_hu holds values that are not finite or exceed int16; expected Hounsfield units")
        z, row, column = (float(value) for value in spacing)
        whole = np.empty(hu.shape, np.int16)
        for source, target in zip(hu, whole, strict=True):  # slice by slice: a copy as float64 takes four times as much
            target[...] = np.rint(source)
        pixels = UNKNOWN_SPACING if pixels_unknown else (row, column)
        return self._predict(Volume(whole, np.arange(len(hu), dtype=np.float64) * z, pixels))

    def predict_series(self, series: Series, max_gap_mm: float = MAX_GAP_MM) -> Prediction:
        """Predict one DICOM series.

        Raises Refused if it has a larger gap, its pixels cannot be read, or the field of view is too large.
        """
        self.check_hu()
        return self.predict_prepared(series, *prepare_series(series, max_gap_mm, crop=self.provenance["crop"]))

    def predict_prepared(self, series: Series, volume: Volume, details: Mapping[str, Any]) -> Prediction:
        """Predict a series that has been read: volume and details are those of `prepare_series`, cropped alike."""
        for warning in unit_warnings([{"bag_id": series.uid, **details}]):
            log.warning("%s", warning)
        return self.predict_voxels(volume.hu, volume.z_mm, volume.pixel_spacing_mm, details)

    def predict_voxels(
        self,
        voxels: NDArray[np.int16],
        z_mm: NDArray[np.float64] | None = None,
        pixel_spacing_mm: Spacing = UNKNOWN_SPACING,
        details: Mapping[str, Any] | None = None,
    ) -> Prediction:
        """Predict 1 mm slices that are already as the training data were: HU or grey values, cropped.

        Args:
            voxels: int16 [S, H, W].
            z_mm: [S], of the slices; None counts from 0.
            pixel_spacing_mm: (row, column); a model with image.crop_mm requires it.
            details: of the series, see `prepare_series`, to be compared with the training data.
        """
        found = [predict_and_embed(each.classifier, voxels, pixel_spacing_mm) for each in self.networks]
        bag = mean_prediction([prediction for prediction, _ in found])
        index = np.arange(len(voxels))
        p = bag.slice_probabilities if self.config["slices_trained"] else np.full((len(voxels), 3), np.nan)
        slices = pd.DataFrame(
            {"index": index, "z_mm": index.astype(float) if z_mm is None else z_mm, "weight": bag.weights,
             "p_non_nodule": p[:, 0], "p_benign": p[:, 1], "p_malignant": p[:, 2]}
        )  # fmt: skip
        calibrated = None if self.chosen is None else self.chosen.calibrated([bag.probability])
        warnings, unknown = self._compare(voxels, z_mm, pixel_spacing_mm, details or {}, [rows for _, rows in found])
        return Prediction(
            bag.probability,
            None if calibrated is None else float(calibrated[0]),
            slices,
            tuple(warnings),
            tuple(unknown),
            of_members=tuple(prediction.probability for prediction, _ in found),
            features=tuple(rows for _, rows in found),
        )

    def check_hu(self, bag: str = "scan") -> None:
        """Raise LungtlError if the model was trained on grey values instead of HU, or on nodules instead of scans.

        `bag` is what it is to predict: scan or nodule.
        """
        if self.provenance["value_range"] is not None:
            raise LungtlError(
                f"{self.folder} was trained on grey values, not HU; it cannot read CT series: use another model"
            )
        if self.unit == bag:
            return
        if bag == "scan":
            raise LungtlError(
                f"{self.folder} was trained on nodules cut out of scans (dataset.bag={self.unit}), it cannot read "
                "whole series: give their positions with points=FILE.csv, or use another model"
            )
        advice = "omit points" if self.unit == "scan" else "score it with lungtl evaluate"
        raise LungtlError(
            f"{self.folder} was trained on {self.unit}s, not on single nodules; {advice}, or use another model"
        )

    def _compare(
        self,
        voxels: NDArray[np.int16],
        z_mm: NDArray[np.float64] | None,
        pixel_spacing_mm: Spacing,
        details: Mapping[str, Any],
        features: Sequence[Tensor],
    ) -> tuple[list[InputWarning], list[str]]:
        """Warnings about what was predicted, and the codes that could not be compared; see `input_warnings`."""
        positions = np.full(len(voxels), np.nan) if z_mm is None else z_mm
        warnings, unknown = compare(
            measures(voxels.shape, positions, pixel_spacing_mm, details), self.ranges, self.unit
        )
        ratios = [
            None if each.reference is None else each.reference.ratio(np.split(pool_bag(each.classifier, rows), 2)[0])
            for each, rows in zip(self.networks, features, strict=True)
        ]
        further, unchecked = compare_embeddings(ratios, self.unit)
        return warnings + further, unknown + unchecked

    def _predict(self, volume: Volume) -> Prediction:
        details = {"native_spacing_mm": float(np.median(np.diff(volume.z_mm)))}
        if all(map(math.isfinite, volume.pixel_spacing_mm)):
            details["lungs_cm2"] = lung_area(volume)
        if self.provenance["crop"] == "lungs":
            volume, _ = crop_to_lungs(volume)
        volume = resample_z(volume)
        return self.predict_voxels(volume.hu, volume.z_mm, volume.pixel_spacing_mm, details)
