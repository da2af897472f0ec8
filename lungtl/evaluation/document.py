"""metrics.json, schema 2: every key, its type and what must hold between them. docs/metrics.md explains them.

The file is plain JSON without NaN: an undefined number is null, and then `undefined` next to it gives the reason.
"""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from lungtl.evaluation.chosen import Chosen
from lungtl.evaluation.estimate import STRICT, DelongAuroc, Difference, Estimate, Probability
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import flatten

SCHEMA = 2
"""Raised whenever a reader of older files would misread a newer one."""

TRACKED = ("auroc", "auprc", "sensitivity", "specificity", "brier")
"""The metrics of the model that a tracker gets; intervals and all others are in metrics.json and summary.txt."""

SCORES = ("bag", "calibrated", "with_covariates", "slice", "controls", "gains", "operating_points", "localisation")
"""The parts of metrics.json that hold estimates."""

ESTIMATED = {"value": "", "difference": "", "low": "_low", "high": "_high", "p_value": "_p_value"}
"""The numbers of an estimate -> what its name ends with."""

Document = dict[str, Any]
"""metrics.json as plain JSON values."""

Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]
Measure = Literal["share", "average_precision"]


@dataclass(frozen=True, config=STRICT)
class ScoreTable:
    """Every metric of one set of predictions."""

    n: Positive  # rows: bags or slices
    n_patients: Positive
    n_positive: Count
    threshold: Probability  # rows with at least this probability are called positive
    metrics: dict[str, Estimate]  # name in `lungtl.evaluation.weighted.METRICS` -> estimate
    auroc_delong: DelongAuroc | None = None  # the AUROC with the analytic interval of DeLong and Obuchowski


@dataclass(frozen=True, config=STRICT)
class OperatingPoint:
    """Decisions at a threshold; ppv and npv hold for the prevalence of the scored bags."""

    threshold: float
    sensitivity: Estimate
    specificity: Estimate
    ppv: Estimate
    npv: Estimate


@dataclass(frozen=True, config=STRICT)
class Subgroup:
    """The model's AUROC on the bags of one level of a group."""

    group: str
    level: str
    n: Count
    n_positive: Count
    n_patients: Count
    auroc: float | None
    low: float | None
    high: float | None
    undefined: str | None


@dataclass(frozen=True, config=STRICT)
class Localisation:
    """How much of the aggregator's weight falls on true nodule slices."""

    n: Count  # bags with both nodule and non-nodule slices
    n_patients: Count
    n_slices: Count  # of those bags
    n_nodule_slices: Count
    # which weights (untrained only where given) -> measure -> mean over the bags
    rules: dict[Literal["model", "uniform", "centre", "untrained"], dict[Measure, Estimate]]
    # rule -> measure -> the model's mean minus that rule's, on the same resamples
    gains: dict[Literal["centre", "untrained"], dict[Measure, Estimate]]


@dataclass(frozen=True, config=STRICT)
class WithCovariates:
    """The prediction from the model's log-odds and covariates, on the bags whose covariates are known."""

    covariates: tuple[str, ...]
    n_unknown: Count  # bags that are not scored, since they lack a covariate
    scores: ScoreTable
    gain: Difference  # its AUROC minus the model's own
    gains: dict[str, Difference]  # control -> its AUROC minus the control's


class Training(BaseModel):
    """`training` in the metrics.json of a training; a further key is the monitored metric (`val/loss`, ...)."""

    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)

    epochs: Count | None = None  # how many were trained
    best_epoch: int | None = None  # the epoch, counted from 1, whose weights were tested
    seconds: float | None = None  # of training, in all attempts
    trainable_parameters: Count | None = None  # how many parameters trained
    val_auroc: Probability | None = None  # on the validation bags at the best epoch; None where undefined


class Metrics(BaseModel):
    """The whole of metrics.json; further keys are those of the command that wrote it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)

    schema_: Annotated[Literal[2], Field(alias="schema")]  # `SCHEMA`
    split: str  # "val", "test", ...
    bag: ScoreTable  # the model's scores per bag
    # kind of calibration -> the model's scores after it
    calibrated: dict[Literal["platt", "temperature", "isotonic"], ScoreTable] = {}
    # the model and covariates together; None without covariates, or where no scored bag has them
    with_covariates: WithCovariates | None = None
    slice: ScoreTable | None = None  # its scores per slice; None where slices were not scored
    controls: dict[str, ScoreTable] = {}  # scores of the trivial predictors on the same bags
    gains: dict[str, Difference] = {}  # control -> the model's AUROC minus the control's
    chosen: Chosen | None = None  # calibration and thresholds, chosen on validation bags
    # name -> decisions at the threshold chosen for it; None where there is none
    operating_points: dict[str, OperatingPoint | None] = {}
    subgroups: list[Subgroup] = []  # scores of subsets of the bags
    localisation: Localisation | None = None  # how much of the aggregator's weight falls on true nodule slices

    @model_validator(mode="after")
    def _training_is_valid(self) -> Metrics:
        if training := (self.model_extra or {}).get("training"):
            Training.model_validate(training)
        return self


def evaluation_document(*, split: str, bag: ScoreTable, **parts: Any) -> Document:
    """Assemble and validate metrics.json.

    Args:
        split: "val", "test", ...
        bag: the model's scores per bag.
        **parts: further fields of `Metrics`, and further keys with JSON values.

    Returns:
        A dict that `json.dumps(..., allow_nan=False)` accepts.

    Raises:
        LungtlError: the value of a further key is not JSON.
        pydantic.ValidationError: a field does not follow the schema.
    """
    for key in parts.keys() - Metrics.model_fields.keys():
        try:
            json.dumps(parts[key], allow_nan=False)
        except (TypeError, ValueError) as error:
            raise LungtlError(
                f"key {key!r} of metrics.json is not JSON ({error}); use plain values, None for NaN"
            ) from error
    document = Metrics.model_validate({"schema": SCHEMA, "split": split, "bag": bag, **parts})
    return document.model_dump(mode="json", by_alias=True)


def flat_metrics(document: Document) -> dict[str, float]:
    """Every score of metrics.json, without what is undefined and without subgroups (a table of their own).

    Returns:
        "test/bag/auroc", "test/bag/auroc_low", "test/bag/auroc_delong_low", "test/controls/diameter/auroc",
        "test/gains/diameter_p_value", "test/operating_points/specificity_95/sensitivity", ... -> a number.
    """
    flat = flatten({part: document[part] for part in SCORES if document[part]})
    numbers = {}
    for key, value in flat.items():
        *path, last = [name for name in key.split(".") if name != "metrics"]
        if last in ESTIMATED and value is not None:
            numbers[f"{document['split']}/{'/'.join(path)}{ESTIMATED[last]}"] = float(value)
    return numbers


def main_metrics(document: Document) -> dict[str, float]:
    """The few numbers of metrics.json for a tracker, without what is undefined.

    Returns:
        "test/bag/auroc", "test/bag/auprc", ..., and of each control "test/control/diameter/auroc" -> a finite number.
    """
    tables: dict[str, tuple[Any, tuple[str, ...]]] = {"bag": (document["bag"], TRACKED)}
    tables |= {f"control/{name}": (table, ("auroc",)) for name, table in document["controls"].items()}
    return {
        f"{document['split']}/{group}/{name}": float(value)
        for group, (table, names) in tables.items()
        for name in names
        if (value := table["metrics"].get(name, {}).get("value")) is not None and math.isfinite(value)
    }
