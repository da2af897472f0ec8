"""The schema of predictions.json, which docs/predict.md describes; each series' record has the same form."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lungtl.bundle.card import RESEARCH_ONLY
from lungtl.predict.models import NamedModel
from lungtl.predict.result import Decision, SeriesResult
from lungtl.runs.input_warnings import InputWarning
from lungtl.settings.version import VERSION


class _Entry(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=(), from_attributes=True
    )


class ModelFacts(_Entry):
    """A model."""

    name: str
    fingerprint: str  # of its bundle's checksums
    trained_on: str  # name of the prepared dataset
    unit: str  # what gets one probability: scan or nodule
    phantom: bool  # trained on synthetic scans: its probabilities mean nothing clinically
    networks: int  # 1, or the members of an ensemble


class ModelEntry(_Entry):
    """What one model predicts."""

    model: str
    probability: float
    calibrated: float | None  # None: no calibration could be fitted
    with_covariates: float | None  # with diameter and density; None: unknown, or the model does not use them
    networks: list[float]  # the probability of each network
    decisions: dict[str, Decision | None]  # operating point -> decision; None: the model has no such threshold
    warnings: list[str]  # codes
    unchecked: list[str]  # codes of warnings that could not be checked


class KeySliceEntry(_Entry):
    """A native slice that weighed much."""

    rank: int
    z_mm: float
    weight: float
    sop_instance_uid: str
    instance_number: int | None


class PointEntry(_Entry):
    """Where a nodule is: DICOM patient coordinates (LPS)."""

    number: int  # among the points of its series: 0, 1, ...
    x_mm: float
    y_mm: float
    z_mm: float
    diameter_mm: float | None


class SeriesEntry(_Entry):
    """One predicted series, or one nodule of it."""

    key: str  # names its folder
    series_uid: str
    point: PointEntry | None
    path: str  # folder of the series, from the input's name on
    probability: float  # mean over the models
    calibrated: float | None  # mean over the models; None if one has no calibration
    spread: float | None  # standard deviation between all networks; None for one
    n_slices: int  # of 1 mm
    n_native_slices: int
    models: list[ModelEntry]
    warnings: list[InputWarning]
    key_slices: list[KeySliceEntry]
    lungtl: str  # version
    created: str  # ISO 8601 with time zone
    input: str  # fingerprint of series, point, models and options: unchanged, it is not predicted again


class RefusedEntry(_Entry):
    """What could not be predicted."""

    item: str
    reason: str
    remedy: str


class Document(_Entry):
    """The whole of predictions.json."""

    schema_: Annotated[Literal[1], Field(alias="schema")] = 1
    note: str = RESEARCH_ONLY
    complete: bool  # False while the command runs, or after it was interrupted
    models: list[ModelFacts]
    series: list[SeriesEntry]
    refused: list[RefusedEntry]


def model_facts(each: NamedModel) -> ModelFacts:
    """The entry of a model."""
    model = each.model
    return ModelFacts(
        name=each.name, fingerprint=each.fingerprint, trained_on=str(model.provenance["store"]), unit=model.unit,
        phantom=each.phantom, networks=len(model.networks),
    )  # fmt: skip


def series_entry(result: SeriesResult, created: str, input_fingerprint: str) -> SeriesEntry:
    """The entry of a series or nodule."""
    point = result.point
    calibrated = [each.prediction.calibrated for each in result.models]
    known = [value for value in calibrated if value is not None]
    return SeriesEntry(
        key=result.key,
        series_uid=result.series.uid,
        point=None if point is None else PointEntry(
            number=point.number, x_mm=point.position_mm[0], y_mm=point.position_mm[1], z_mm=point.position_mm[2],
            diameter_mm=point.diameter_mm if point.diameter_mm > 0 else None,
        ),
        path=result.path,
        probability=result.probability,
        calibrated=sum(known) / len(known) if len(known) == len(calibrated) else None,
        spread=result.spread,
        n_slices=len(result.slices),
        n_native_slices=len(result.series.files),
        models=[
            ModelEntry(
                model=each.name,
                probability=each.prediction.probability,
                calibrated=each.prediction.calibrated,
                with_covariates=each.with_covariates,
                networks=list(each.prediction.of_members),
                decisions=dict(each.decisions),
                warnings=[warning.code for warning in each.prediction.warnings],
                unchecked=list(each.prediction.unknown),
            )
            for each in result.models
        ],
        warnings=result.warnings,
        key_slices=[KeySliceEntry.model_validate(key) for key in result.key_slices],
        lungtl=VERSION,
        created=created,
        input=input_fingerprint,
    )  # fmt: skip
