"""The sections of a training config that have keys of their own: image, split, trainer, evaluation, ..."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from lungtl.settings.errors import UsageError
from lungtl.settings.typed import typed

Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]
"""Of a folder in data_dir."""
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]

WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600, 1500),
    "mediastinal": (40, 400),
    "bone": (400, 1800),
    "wide": (0, 2000),
}
"""Display windows by name: (centre, width) in HU."""
MIN_SIZE, MAX_SIZE = 32, 1024  # of images in pixels


class Strict(BaseModel):
    """Immutable base model; unknown keys are forbidden."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class JitterConfig(Strict):
    """The largest amounts of `image.augment=ct`."""

    shift: Annotated[float, Field(ge=0, le=0.5)]
    rotation: Annotated[float, Field(ge=0, le=180)]
    zoom: Fraction
    brightness: Annotated[float, Field(ge=0, le=1)]
    contrast: Fraction
    noise: Annotated[float, Field(ge=0, le=1)]


def _listed(value: Any) -> Any:
    return value if value is None or isinstance(value, list | tuple) else [value]


class ImageConfig(Strict):
    """From a slice's voxels to the input channels of an ImageNet backbone."""

    channels: Annotated[int, Field(ge=1, le=16)]
    windows: Literal["auto"] | list[str | tuple[float, float]]
    neighbours: bool
    size: Literal["auto"] | Annotated[int, Field(ge=MIN_SIZE, le=MAX_SIZE)]
    crop: Annotated[int, Field(ge=8)] | None
    crop_mm: Annotated[list[PositiveFinite], Field(min_length=1), BeforeValidator(_listed)] | None
    pixel_mm: PositiveFinite | None
    augment: Literal["none", "dihedral", "ct"]
    jitter: JitterConfig
    train_slices: Annotated[int, Field(ge=1)] | None

    @field_validator("windows")
    @classmethod
    def _known_windows(cls, value: Any) -> Any:
        if value == "auto":
            return value
        for window in value:
            if isinstance(window, str) and window not in WINDOWS:
                raise ValueError(f"{window} is not a window; expected {', '.join(WINDOWS)} or [centre, width] in HU")
            if not isinstance(window, str) and window[1] <= 0:
                raise ValueError(f"a window's width must be positive, not {window[1]}")
        return value

    @model_validator(mode="after")
    def _windows_match_channels(self) -> ImageConfig:
        count = 1 if self.windows == "auto" else len(self.windows)
        if self.neighbours and (count != 1 or self.channels != 3):
            raise ValueError(
                "neighbours=true takes three channels from three slices: give one window and image.channels=3"
            )
        if count not in (1, self.channels):
            raise ValueError(
                f"expected one window or {self.channels}, one per channel, not {count}; see image.channels"
            )
        return self

    @model_validator(mode="after")
    def _one_field_of_view(self) -> ImageConfig:
        given = [key for key in ("size", "crop_mm", "pixel_mm") if getattr(self, key) not in (None, "auto")]
        if self.crop is not None and (self.crop_mm or self.pixel_mm):
            raise UsageError(
                f"image.crop={self.crop} is in pixels, image.{given[-1]} in mm; give one, set the other to null"
            )
        if len(given) == 3:
            raise UsageError("image.size, image.crop_mm and image.pixel_mm: two of them decide the third; omit one")
        if self.pixel_mm and self.crop_mm:
            if len(self.crop_mm) > 1:
                raise UsageError("image.pixel_mm requires one image.crop_mm; for several give image.size")
            size = self.crop_mm[0] / self.pixel_mm
            if abs(size - round(size)) > 1e-6 * size or not MIN_SIZE <= round(size) <= MAX_SIZE:
                raise UsageError(
                    f"image.crop_mm={self.crop_mm[0]:g} / image.pixel_mm={self.pixel_mm:g} = {size:g} pixels; expected "
                    f"a whole number from {MIN_SIZE} to {MAX_SIZE}"
                )
        return self

    def resolve_size(self, default: int) -> tuple[int, list[float]]:
        """Side of the network's images in pixels, and of the fields of view in mm (empty if they are in pixels).

        Args:
            default: side in pixels if `size` is auto.
        """
        size = default if self.size == "auto" else self.size
        if self.pixel_mm is None:
            return size, self.crop_mm or []
        if self.crop_mm is None:
            return size, [size * self.pixel_mm]
        return round(self.crop_mm[0] / self.pixel_mm), self.crop_mm


class HeadConfig(Strict):
    """The layers between a slice's embedding and the aggregator."""

    width: Annotated[int, Field(ge=1)] | None
    dropout: Fraction
    weight_decay: Annotated[float, Field(ge=0)] | None


class SplitConfig(Strict):
    """Train, validation and test split."""

    kind: Literal["holdout", "kfold", "source"]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=2, le=20)]
    fold: Annotated[int, Field(ge=0)]
    seed: int
    train_patients: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitConfig:
        if self.kind != "kfold":
            if self.fold != 0:
                raise UsageError(
                    f"split.fold={self.fold}: split.kind={self.kind} has no folds; omit split.fold, or give "
                    f"split.kind=kfold (all folds: {typed('crossval')})"
                )
            return self
        if self.folds < 3:
            raise UsageError(
                f"split.folds={self.folds}: one fold tests, one validates, the others train; give at least 3"
            )
        if self.fold >= self.folds:
            raise UsageError(f"split.fold={self.fold}: with split.folds={self.folds}, give 0 to {self.folds - 1}")
        return self


class TrainerConfig(Strict):
    """Training length, batches, precision and devices."""

    max_epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    sampler: Literal["shuffle", "balanced"]
    bucket: Literal["auto"] | bool
    patience: Annotated[int, Field(ge=1)] | None
    monitor: Literal["val/loss", "val/auroc"]
    accelerator: Accelerator
    devices: Annotated[int, Field(ge=1)] | Literal["auto"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    accumulate: Annotated[int, Field(ge=1)]
    clip_norm: Annotated[float, Field(gt=0)] | None
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    compile: bool
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    limit_batches: Annotated[int, Field(ge=1)] | None


class CacheConfig(Strict):
    """The feature cache: what frozen blocks compute, stored on disk and shared by all runs."""

    enabled: bool
    max_gb: Annotated[float, Field(gt=0)]


class TrainCacheConfig(CacheConfig):
    """The feature cache of a training run."""

    precision: Literal["float32", "float16"]
    views: Literal[1, 8]


class EvaluationConfig(Strict):
    """What is computed for a run's test patients."""

    views: Literal[1, 8]
    calibration: Literal["platt", "temperature", "isotonic", "none"]
    untrained: bool
    probe: bool
    figures: bool
    heatmaps: bool
    resamples: Annotated[int, Field(ge=10)]


class TrackingConfig(Strict):
    """Where runs are recorded."""

    enabled: bool
    uri: str | None
    experiment: str


class SweepConfig(Strict):
    """Name of a sweep, whether its failed runs are repeated, and whether its settings are one model."""

    name: Name | None
    retry: bool
    ensemble: bool
