"""metrics.json, schema 2: every key, its type and what must hold between them. docs/metrics.md says it in words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 2
"""Raised whenever a reader of older files would misread a newer one."""

Count = Annotated[int, Field(ge=0)]
Probability = Annotated[float, Field(ge=0, le=1)]


class Part(BaseModel):
    """A part of the document: no further keys, no NaN, no infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True)


class Estimate(Part):
    """A number with its 95 % interval; what is missing says why."""

    value: float | None
    low: float | None
    high: float | None
    undefined: str | None

    @model_validator(mode="after")
    def _whole_or_explained(self) -> Estimate:
        whole = None not in (self.value, self.low, self.high)
        if whole == bool(self.undefined):
            raise ValueError("an estimate has a value and an interval, or says why not")
        if (self.low is None) != (self.high is None) or (self.value is None and self.low is not None):
            raise ValueError("an interval has two ends and a value")
        return self


class Delong(Estimate):
    """An AUROC with the analytic interval of DeLong and Obuchowski."""

    standard_error: float | None


class Difference(Part):
    """The model's AUROC less a control's, on the same bags."""

    difference: float | None
    low: float | None
    high: float | None
    p_value: Probability | None
    undefined: str | None


class Table(Part):
    """Every metric of one set of predictions."""

    n: Annotated[int, Field(ge=1)]
    n_patients: Annotated[int, Field(ge=1)]
    n_positive: Count
    threshold: Probability
    metrics: dict[str, Estimate]
    auroc_delong: Delong | None


class Map(Part):
    """A calibration map."""

    kind: Literal["none", "platt", "temperature", "isotonic"]
    temperature: Annotated[float, Field(gt=0)] | None
    inputs: list[Probability]
    outputs: list[Probability]
    reason: str | None
    slope: Annotated[float, Field(gt=0)] | None = None  # files of version 0.1.0 have neither, and no platt
    intercept: float | None = None


class Chosen(Part):
    """What was chosen on the validation bags: calibration.json."""

    kind: Literal["platt", "temperature", "isotonic", "none"]
    n: Count
    n_patients: Count
    n_positive: Count
    platt: Map | None = None
    temperature: Map
    isotonic: Map
    thresholds: dict[str, float | None]


class Point(Part):
    """Decisions at a threshold."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


class Subgroup(Part):
    """The model on some of the bags."""

    group: str
    level: str
    n: Count
    n_positive: Count
    n_patients: Count
    auroc: float | None
    low: float | None
    high: float | None
    undefined: str | None


class Localisation(Part):
    """How much of an aggregator's weight falls on true nodule slices."""

    n: Count
    n_patients: Count
    n_slices: Count
    n_nodule_slices: Count
    rules: dict[Literal["model", "uniform", "centre", "untrained"], dict[str, Estimate]]
    gains: dict[Literal["centre", "untrained"], dict[str, Estimate]]


class Metrics(Part):
    """The whole of metrics.json; further keys are those of the command that wrote it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)

    schema_: Annotated[Literal[2], Field(alias="schema")]
    split: str
    bag: Table
    calibrated: dict[Literal["platt", "temperature", "isotonic"], Table]
    slice: Table | None
    controls: dict[str, Table]
    gains: dict[str, Difference]
    chosen: Chosen | None
    operating_points: dict[str, Point | None]
    subgroups: list[Subgroup]
    localisation: Localisation | None


def check_document(document: dict[str, Any]) -> None:
    """Raise pydantic.ValidationError unless a document follows the schema."""
    Metrics.model_validate(document)
