"""The typed form of every config: unknown keys and wrong values are refused before anything heavy is imported.

Hydra composes, these models check. The exchangeable parts (`dataset`, `backbone`, `freezing`, `aggregator`,
`loss`) are mappings with a `_target_`, checked against that class's signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, field_validator, model_validator

from lungtl.settings import parts
from lungtl.settings.errors import UsageError

Part = dict[str, Any]
FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
Fraction = Annotated[float, Field(ge=0, lt=1)]

RECORDED_GROUPS = ("dataset", "backbone", "freezing", "aggregator", "loss")
"""Config groups whose option a run records."""
WINDOWS: dict[str, tuple[float, float]] = {
    "lung": (-600, 1500),
    "mediastinal": (40, 400),
    "bone": (400, 1800),
    "wide": (0, 2000),
}
"""Display windows by name: (centre, width) in HU."""


class Strict(BaseModel):
    """A section that refuses unknown keys and stays as it was composed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ImageConfig(Strict):
    """How a slice's voxels become the channels of an ImageNet backbone."""

    channels: Annotated[int, Field(ge=1, le=16)]
    windows: Literal["auto"] | list[str | tuple[float, float]]
    neighbours: bool
    size: Literal["auto"] | Annotated[int, Field(ge=32, le=1024)]
    crop: Annotated[int, Field(ge=8)] | None
    augment: Literal["none", "dihedral"]
    train_slices: Annotated[int, Field(ge=1)] | None

    @field_validator("windows")
    @classmethod
    def _known_windows(cls, value: Any) -> Any:
        if value == "auto":
            return value
        for window in value:
            if isinstance(window, str) and window not in WINDOWS:
                raise ValueError(f"{window} is no window; wanted {', '.join(WINDOWS)} or [centre, width] in HU")
            if not isinstance(window, str) and window[1] <= 0:
                raise ValueError(f"a window's width must be positive, not {window[1]}")
        return value

    @model_validator(mode="after")
    def _one_window_or_one_a_channel(self) -> ImageConfig:
        count = 1 if self.windows == "auto" else len(self.windows)
        if self.neighbours and (count != 1 or self.channels != 3):
            raise ValueError(
                "neighbours=true takes three channels from three slices: give one window, image.channels=3"
            )
        if count not in (1, self.channels):
            raise ValueError(f"wanted one window or {self.channels}, one a channel, not {count}; see image.channels")
        return self


class HeadConfig(Strict):
    """What stands between a slice's embedding and the aggregator."""

    width: Annotated[int, Field(ge=1)]
    dropout: Fraction


class SplitConfig(Strict):
    """Who is trained on, who chooses the epoch, who is tested."""

    kind: Literal["holdout", "kfold", "source"]
    val: Annotated[float, Field(gt=0, lt=1)]
    test: Annotated[float, Field(gt=0, lt=1)]
    folds: Annotated[int, Field(ge=2, le=20)]
    fold: Annotated[int, Field(ge=0)]
    seed: int

    @model_validator(mode="after")
    def _fold_exists(self) -> SplitConfig:
        if self.kind != "kfold":
            if self.fold != 0:
                raise UsageError(
                    f"split.fold={self.fold}: split.kind={self.kind} has no folds; give split.kind=kfold (all folds: "
                    "python -m lungtl.crossval) or leave split.fold out"
                )
            return self
        if self.folds < 3:
            raise UsageError(
                f"split.folds={self.folds}: one fold tests, one validates, the rest train; give at least 3"
            )
        if self.fold >= self.folds:
            raise UsageError(f"split.fold={self.fold}: with split.folds={self.folds}, give 0 to {self.folds - 1}")
        return self


class OptimizerConfig(Strict):
    """The optimiser of everything that trains."""

    name: Literal["adamw", "sgd"]
    lr: Annotated[float, Field(gt=0)]
    weight_decay: Annotated[float, Field(ge=0)]
    momentum: Fraction
    schedule: Literal["constant", "cosine"]
    warmup_epochs: Annotated[int, Field(ge=0)]


class TrainerConfig(Strict):
    """How long and on what to train."""

    max_epochs: Annotated[int, Field(ge=1)]
    batch_size: Annotated[int, Field(ge=1)]
    sampler: Literal["shuffle", "balanced"]
    bucket: Literal["auto"] | bool
    patience: Annotated[int, Field(ge=1)] | None
    monitor: Literal["val/loss", "val/auroc"]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    devices: Annotated[int, Field(ge=1)] | Literal["auto"]
    precision: Literal["32-true", "16-mixed", "bf16-mixed"]
    accumulate: Annotated[int, Field(ge=1)]
    clip_norm: Annotated[float, Field(gt=0)] | None
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    compile: bool
    workers: Annotated[int, Field(ge=0)] | Literal["auto"]
    limit_batches: Annotated[int, Field(ge=1)] | None


class CacheConfig(Strict):
    """What frozen blocks compute, kept on disk and shared by runs; one bound for all of it."""

    enabled: bool
    max_gb: Annotated[float, Field(gt=0)]


class TrainCacheConfig(CacheConfig):
    """Likewise, and what is kept."""

    precision: Literal["float32", "float16"]
    views: Literal[1, 8]


class EvaluationConfig(Strict):
    """What is said of a run's test patients."""

    calibration: Literal["platt", "temperature", "isotonic", "none"]
    untrained: bool
    figures: bool
    heatmaps: bool
    resamples: Annotated[int, Field(ge=10)]


class TrackingConfig(Strict):
    """Where runs are recorded."""

    enabled: bool
    uri: str | None
    experiment: str


class SweepConfig(Strict):
    """A sweep that can be called again."""

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$", coerce_numbers_to_str=True)] | None
    retry: bool


class Common(Strict):
    """What every command has."""

    data_dir: FullPath
    workers: Annotated[int, Field(ge=1)] | Literal["auto"]


class DatasetConfig(Common):
    """What every command that reads a dataset has."""

    dataset: Part

    @model_validator(mode="after")
    def _check_dataset(self) -> DatasetConfig:
        parts.check(self.dataset, "dataset")
        reads_data = not (getattr(self, "labels_only", False) or getattr(self, "dry_run", False))
        if "root" in self.dataset and self.dataset["root"] is None and reads_data:
            raise UsageError(
                "dataset.root is missing; give dataset.root=FOLDER with the series (labels alone need none: "
                "python -m lungtl.prepare dataset=lidc labels_only=true)"
            )
        return self


class PrepareConfig(DatasetConfig):
    """`python -m lungtl.prepare`."""

    labels_only: bool


class TrainConfig(DatasetConfig):
    """`python -m lungtl.train`."""

    backbone: Part
    freezing: Part
    aggregator: Part
    loss: Part
    image: ImageConfig
    head: HeadConfig
    split: SplitConfig
    optimizer: OptimizerConfig
    trainer: TrainerConfig
    evaluation: EvaluationConfig
    tracking: TrackingConfig
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    cache: TrainCacheConfig
    sweep: SweepConfig
    resume: str | None
    name: str | None
    dry_run: bool
    _choices: dict[str, str] = PrivateAttr(default_factory=dict)
    _overrides: list[str] = PrivateAttr(default_factory=list)

    @property
    def choices(self) -> dict[str, str]:
        """Config group -> the option that was chosen."""
        return self._choices

    @property
    def overrides(self) -> list[str]:
        """What the command line set."""
        return self._overrides

    def composed_from(self, choices: Mapping[str, object], overrides: Sequence[str]) -> TrainConfig:
        """Remember what Hydra composed this config from; returns the config."""
        self._choices |= {group: str(choices[group]) for group in RECORDED_GROUPS if group in choices}
        self._overrides += map(str, overrides)
        return self

    @model_validator(mode="after")
    def _check_model_parts(self) -> TrainConfig:
        if self.dry_run and self.resume is not None:  # Hydra would note the dry run among the run's own overrides
            raise UsageError(f"dry_run=true with resume={self.resume}: a resumed run trains as it did; leave one out")
        parts.check(self.backbone, "backbone", frozenset({"in_chans"}))
        parts.check(self.freezing, "freezing")
        parts.check(self.aggregator, "aggregator", frozenset({"dim"}))
        parts.check(self.loss, "loss")
        if self.cache.views > 1 and self.image.augment == "none":
            raise UsageError(
                f"cache.views={self.cache.views}: without augmentation one view is seen; give image.augment=dihedral "
                "or cache.views=1"
            )
        return self


class EvaluateConfig(DatasetConfig):
    """`python -m lungtl.evaluate`."""

    model: str
    split: Literal["auto", "all", "train", "val", "test"]
    threshold: Annotated[float, Field(ge=0, le=1)]
    untrained: bool
    heatmaps: bool
    resamples: Annotated[int, Field(ge=10)]
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    cache: CacheConfig
    tracking: TrackingConfig
    trust: list[str] | None = None


class PredictConfig(Common):
    """`python -m lungtl.predict`."""

    model: str
    input: FullPath
    accelerator: Literal["auto", "cpu", "gpu", "mps"]
    trust: list[str] | None = None


class ReportConfig(Common):
    """`python -m lungtl.report`."""

    sweep: Annotated[str, Field(coerce_numbers_to_str=True)]
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
    features: Literal["anew", "cached"]


class DownloadConfig(Common):
    """`python -m lungtl.download`."""

    dataset: Part
    root: FullPath
    scans: Annotated[int, Field(ge=1)] | Literal["auto", "all"]
    patients: Annotated[list[str], Field(min_length=1)] | None
    endpoint: Annotated[str, Field(pattern=r"^https?://\S+$")]
    dry_run: bool

    @model_validator(mode="after")
    def _can_be_fetched(self) -> DownloadConfig:
        if self.dataset.get(parts.TARGET) != "lungtl.sources.lidc.LidcSource":
            raise UsageError("only LIDC-IDRI can be fetched; leave dataset away or write dataset=lidc")
        return self
