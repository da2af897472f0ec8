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
    BeforeValidator,
    Field,
    PrivateAttr,
    model_validator,
)

from lungtl.settings import parts
from lungtl.settings.choices import actual_choices
from lungtl.settings.errors import UsageError
from lungtl.settings.sections import (
    Accelerator,
    CacheConfig,
    EvaluationConfig,
    HeadConfig,
    ImageConfig,
    Name,
    SplitConfig,
    Strict,
    SweepConfig,
    TrackingConfig,
    TrainCacheConfig,
    TrainerConfig,
)
from lungtl.settings.typed import typed

Part = dict[str, Any]
FullPath = Annotated[Path, AfterValidator(lambda path: path.expanduser().resolve())]
Trust = Annotated[
    list[Annotated[str, Field(pattern=r"^[A-Za-z_]\w*$")]] | None,
    BeforeValidator(lambda value: [value] if isinstance(value, str) else value),
]
"""Top-level packages whose classes a model may need (see `parts.build_trusted`); `trust=mylab` is a list of one."""
FROZEN = "lungtl.models.freezing.frozen.Frozen"
RECORDED_GROUPS = ("dataset", "backbone", "freezing", "aggregator", "loss")
"""Config groups whose option a run records."""


class Common(Strict):
    """Keys of every command."""

    data_dir: FullPath


class DatasetConfig(Common):
    """Keys of every command that reads a dataset."""

    dataset: Part
    workers: Annotated[int, Field(ge=1)] | Literal["auto"]

    @model_validator(mode="after")
    def _check_dataset(self) -> DatasetConfig:
        parts.check(self.dataset, "dataset")
        parts.check_value("dataset.name", Name, self.dataset.get("name", "dataset"))  # of the store's folder
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
        """Config group -> the option that was chosen, or the part that the config has in its place."""
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
        recorded = {group: choices[group] for group in RECORDED_GROUPS if group in choices}
        self._choices = actual_choices(recorded, dict(self))
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
        # torch would notice them only in training
        parts.check_value("optimizer.lr", Annotated[float, Field(gt=0)], self.optimizer.get("lr"))
        parts.check_value(
            "optimizer.weight_decay", Annotated[float, Field(ge=0)], self.optimizer.get("weight_decay", 0)
        )
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
