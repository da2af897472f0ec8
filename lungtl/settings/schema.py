"""The schema of every config: unknown keys and wrong values are reported before anything heavy is imported.

Hydra composes, these models validate. A part (`dataset`, `backbone`, `freezing`, `aggregator`, `loss`) is a mapping
with a `_target_` and is checked against the signature of that class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.typed import typed

Part = dict[str, Any]
FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(pattern=r"^\w[\w.-]*$", max_length=100)]
"""Of a folder in data_dir."""
PositiveFinite = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Accelerator = Literal["auto", "cpu", "gpu", "mps"]
Trust = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] | None,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""Top-level packages whose classes a model may need (see `parts.build_trusted`); `trust=mylab` is a list of one."""

FROZEN = "lungtl.models.freezing.frozen.Frozen"
RECORDED_GROUPS = ("dataset", "backbone", "freezing", "aggregator", "loss")
"""Config groups whose option a run records."""
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
    """Name of a sweep, and whether its failed runs are repeated."""

    name: Name | None
    retry: bool


class Common(Strict):
    """Keys of every command."""

    data_dir: FullPath
    workers: Annotated[int, Field(ge=1)] | Literal["auto"]


class DatasetConfig(Common):
    """Keys of every command that reads a dataset."""

    dataset: Part

    @model_validator(mode="after")
    def _check_dataset(self) -> DatasetConfig:
        parts.check(self.dataset, "dataset")
        try:
            TypeAdapter(Name).validate_python(self.dataset.get("name", "dataset"))  # of the store's folder
        except ValidationError as error:
            raise UsageError(parts.describe("dataset.name", error.errors()[0])) from error
        reads_data = not (getattr(self, "labels_only", False) or getattr(self, "dry_run", False))
        if "root" in self.dataset and self.dataset["root"] is None and reads_data:
            raise UsageError(
                "dataset.root is missing; give dataset.root=FOLDER that contains the series (labels alone need none: "
                f"{typed('prepare', 'dataset=lidc', 'labels_only=true')})"
            )
        return self


class PrepareConfig(DatasetConfig):
    """`python -m lungtl.prepare`."""

    labels_only: bool


def _without_repeats(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("each name is expected once")
    return names


class TrainConfig(DatasetConfig):
    """`python -m lungtl.train`."""

    backbone: Part
    freezing: Part
    aggregator: Part
    loss: Part
    image: ImageConfig
    head: HeadConfig
    split: SplitConfig
    optimizer: Part
    schedule: Part
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    covariates: Annotated[list[str], AfterValidator(_without_repeats)]
    bundle: Literal["full", "head"]
    cache: TrainCacheConfig
    sweep: SweepConfig
    resume: str | None
    trust: Trust
    name: str | None
    dry_run: bool
    verbose: bool
    _choices: dict[str, str] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)

    @property
    def choices(self) -> dict[str, str]:
        """Config group -> the option that was chosen."""
        return self._choices

    @property
    def trains_on_votes(self) -> bool:
        """Whether the bag loss compares with the readers' votes, see `lungtl.training.losses.BagAndSliceLoss`."""
        return bool(self.loss.get("target") == "votes")

    @property
    def trains_on_ratings(self) -> bool:
        """Whether the readers' other ratings are auxiliary targets, see `lungtl.training.readers`."""
        return bool(self.loss.get("readers_weight", 0) > 0)

    @property
    def overrides(self) -> list[str]:
        """What the command line set."""
        return self._overrides

    def composed_from(self, choices: Mapping[str, object], overrides: Sequence[str]) -> TrainConfig:
        """Remember what this config was composed from; returns the config."""
        self._choices = {group: str(choices[group]) for group in RECORDED_GROUPS if group in choices}
        self._overrides = list(map(str, overrides))
        return self

    @model_validator(mode="after")
    def _check_model_parts(self) -> TrainConfig:
        if self.dry_run and self.resume is not None:  # Hydra would add dry_run to the run's own overrides
            raise UsageError(f"dry_run=true with resume={self.resume}: a resumed run does train; omit one of them")
        parts.check(self.backbone, "backbone", frozenset({"in_chans"}), frozenset({"name", "weights", "features"}))
        parts.check(self.freezing, "freezing")
        parts.check(self.aggregator, "aggregator", frozenset({"dim"}))
        parts.check(self.loss, "loss")
        parts.check(self.optimizer, "optimizer", frozenset({"params"}))
        options = parts.signature(str(self.schedule.get(parts.TARGET, "")), "schedule")
        parts.check(self.schedule, "schedule", frozenset({"optimizer"} | ({"max_epochs"} & options.keys())))
        _check_number("optimizer.lr", self.optimizer.get("lr"), Field(gt=0))
        _check_number("optimizer.weight_decay", self.optimizer.get("weight_decay", 0), Field(ge=0))
        if self.trains_on_votes and self.trainer.sampler == "balanced":
            raise UsageError("trainer.sampler=balanced: readers' votes are no classes to balance; use shuffle")
        if self.image.augment == "ct" and self.freezing[parts.TARGET] == FROZEN:
            raise UsageError(
                "image.augment=ct requires a backbone that trains, but with freezing=frozen its features are cached: "
                "give image.augment=dihedral cache.views=8"
            )
        if self.cache.views > 1 and self.image.augment != "dihedral" and self.evaluation.views == 1:
            raise UsageError(
                f"cache.views={self.cache.views}: only flips and quarter turns are cached; give image.augment=dihedral "
                "or evaluation.views=8, or cache.views=1"
            )
        return self


def _check_number(key: str, value: Any, bound: Any) -> None:
    """Raise UsageError unless the value is a number within the bound, which torch would notice only in training."""
    try:
        TypeAdapter(Annotated[float, bound]).validate_python(value)
    except ValidationError as error:
        raise UsageError(parts.describe(key, error.errors()[0])) from error


class EvaluateConfig(DatasetConfig):
    """`python -m lungtl.evaluate`."""

    model: str
    trust: Trust
    split: Literal["auto", "all", "train", "val", "test"]
    threshold: Annotated[float, Field(ge=0, le=1)]
    untrained: bool
    heatmaps: bool
    resamples: Annotated[int, Field(ge=10)]
    accelerator: Accelerator
    cache: CacheConfig
    tracking: TrackingConfig
    verbose: bool


class PredictConfig(Common):
    """`python -m lungtl.predict`."""

    model: str
    trust: Trust
    input: FullPath
    output: FullPath
    points: FullPath | None
    dicom_out: bool
    max_gap_mm: Annotated[float, Field(gt=0)]
    max_gb: Annotated[float, Field(gt=0)]
    follow_links: bool
    accelerator: Accelerator
    tracking: TrackingConfig


class ExportConfig(Common):
    """`python -m lungtl.export`."""

    model: str
    trust: Trust
    format: Literal["onnx", "torch"]
    output: FullPath


class ReportConfig(Common):
    """`python -m lungtl.report`."""

    sweep: str
    out: FullPath | None
    title: str | None
    tracking: TrackingConfig


class RegisterConfig(Common):
    """`python -m lungtl.register`."""

    run: str
    name: Annotated[str, Field(pattern=r"^[^/:'\s]+$")]
    alias: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    tracking: TrackingConfig


class SyncConfig(Common):
    """`python -m lungtl.sync`."""

    run: str | None
    tracking: TrackingConfig


class ReproduceConfig(Common):
    """`python -m lungtl.reproduce`."""

    run: str
    tolerance: Annotated[float, Field(ge=0)]
    features: Literal["recomputed", "cached"]
    trust: Trust


class DownloadConfig(Common):
    """`python -m lungtl.download`."""

    dataset: Part
    root: FullPath
    scans: Annotated[int, Field(ge=1)] | Literal["auto", "all"]
    patients: Annotated[list[str], Field(min_length=1)] | None
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]
    dry_run: bool

    @model_validator(mode="after")
    def _is_lidc(self) -> DownloadConfig:
        if self.dataset.get(parts.TARGET) != "lungtl.sources.lidc.LidcSource":
            raise UsageError("only LIDC-IDRI can be downloaded; omit dataset or give dataset=lidc")
        return self
