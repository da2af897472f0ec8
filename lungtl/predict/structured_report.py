"""The result of a series as a DICOM structured report: TID 1500, Measurement Report, as a Comprehensive 3D SR.

A group of measurements for each model has its probability, its decisions and the key slices with their weights, each of
which refers to the slice. Concepts without a code in DICOM have codes of the scheme 99LUNGTL.
"""

from __future__ import annotations

from collections.abc import Iterator

import highdicom as hd
import numpy as np
from highdicom.coding_schemes import CodingSchemeIdentificationItem
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from lungtl.bundle import WEIGHTS
from lungtl.bundle.card import MEANINGLESS, RESEARCH_ONLY
from lungtl.predict.models import is_of_phantoms
from lungtl.predict.result import KeySlice, ModelResult, SeriesResult
from lungtl.predict.study import Study
from lungtl.settings.version import VERSION
from lungtl.sources.base import sha256

SCHEME = "99LUNGTL"
SERIES_NUMBER = 9001
"""High, since a series number should be unlike those of the study, which are unknown."""
DEVICE_UID = "2.25.129226412893462176219046519863842231874"
"""Of lungtl as the observer; random, and the same for ever."""
PROBABILITY = codes.DCM.ProbabilityOfCancer
CALIBRATED = hd.sr.CodedConcept("calibrated", SCHEME, "Probability of cancer, calibrated")
WITH_COVARIATES = hd.sr.CodedConcept("covariates", SCHEME, "Probability of cancer, with diameter and density")
WEIGHT = hd.sr.CodedConcept("weight", SCHEME, "Weight of the slice in the probability")
CHEST_CT = hd.sr.CodedConcept("24627-2", "LN", "CT Chest")
DECISIONS = {True: codes.SCT.Positive, False: codes.SCT.Negative}


def structured_report(result: SeriesResult, study: Study) -> Dataset:
    """Build the report.

    Args:
        result: of a series or a nodule.
        study: that the series belongs to.

    Returns:
        A Comprehensive 3D SR with new UIDs, complete, preliminary and unverified.
    """
    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=DEVICE_UID, name="lungtl", manufacturer_name="lungtl", model_name=f"lungtl {VERSION}"
        ),
    )
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=CHEST_CT,
        imaging_measurements=list(_groups(result, study)),
    )
    return hd.sr.Comprehensive3DSR(
        evidence=study.references(),
        content=report[0],
        series_instance_uid=generate_uid(None),
        series_number=SERIES_NUMBER,
        sop_instance_uid=generate_uid(None),
        instance_number=1,
        manufacturer="lungtl",
        manufacturer_model_name="lungtl",
        device_serial_number="none",
        software_versions=VERSION,
        series_description="lungtl (research only)",
        is_complete=True,
        is_final=False,
        specific_character_set="ISO_IR 192",
        coding_schemes=[CodingSchemeIdentificationItem(SCHEME, name="lungtl", version=VERSION)],
    )


def _groups(result: SeriesResult, study: Study) -> Iterator[hd.sr.MeasurementsAndQualitativeEvaluations]:
    """One for the mean of several models, and one for each model."""
    name = "scan" if result.point is None else f"nodule {result.point.number}"
    tracking = hd.sr.TrackingIdentifier(uid=generate_uid(None), identifier=name)
    slices = [_slice_reference(each, study) for each in result.key_slices]
    places = [] if result.point is None or not study.frame_of_reference_uid else [
        hd.sr.CoordinatesForMeasurement3D(
            hd.sr.GraphicTypeValues3D.POINT, np.array([result.point.position_mm]), study.frame_of_reference_uid
        )
    ]  # fmt: skip

    def probability(name: hd.sr.CodedConcept, value: float) -> hd.sr.Measurement:
        return _percent(name, value, slices, places)

    if len(result.models) > 1:
        weights = [_percent(WEIGHT, each.weight, [_slice_reference(each, study)]) for each in result.key_slices]
        yield _group(
            tracking, hd.sr.AlgorithmIdentification(f"mean of {len(result.models)} models", VERSION),
            [probability(PROBABILITY, result.probability), *weights], [], _remarks(result),
        )  # fmt: skip
    for each in result.models:
        optional = ((CALIBRATED, each.prediction.calibrated), (WITH_COVARIATES, each.with_covariates))
        measurements = [
            probability(PROBABILITY, each.prediction.probability),
            *(probability(concept, value) for concept, value in optional if value is not None),
        ]
        if len(result.models) == 1:
            measurements += [
                _percent(WEIGHT, key.weight, [_slice_reference(key, study)]) for key in result.key_slices
            ]  # fmt: skip
        yield _group(tracking, _algorithm(each), measurements, list(_decisions(each)), _remarks(result))


def _group(
    tracking: hd.sr.TrackingIdentifier,
    algorithm: hd.sr.AlgorithmIdentification,
    measurements: list[hd.sr.Measurement],
    decisions: list[hd.sr.QualitativeEvaluation],
    remarks: list[str],
) -> hd.sr.MeasurementsAndQualitativeEvaluations:
    group = hd.sr.MeasurementsAndQualitativeEvaluations(
        tracking_identifier=tracking,
        algorithm_id=algorithm,
        finding_sites=[hd.sr.FindingSite(codes.SCT.Lung)],
        measurements=measurements,
        qualitative_evaluations=decisions,
    )
    for text in remarks:  # TID 1501 is extensible
        group[0].ContentSequence.append(
            hd.sr.TextContentItem(codes.DCM.Comment, text, hd.sr.RelationshipTypeValues.CONTAINS)
        )
    return group


def _percent(
    name: hd.sr.CodedConcept,
    share: float,
    slices: list[hd.sr.SourceImageForMeasurement],
    places: list[hd.sr.CoordinatesForMeasurement3D] | None = None,
) -> hd.sr.Measurement:
    return hd.sr.Measurement(
        name, round(100 * share, 6), codes.UCUM.Percent,
        referenced_images=slices, referenced_coordinates=places or None,
    )  # fmt: skip


def _slice_reference(key: KeySlice, study: Study) -> hd.sr.SourceImageForMeasurement:
    return hd.sr.SourceImageForMeasurement(study.classes[key.sop_instance_uid], key.sop_instance_uid)


def _decisions(result: ModelResult) -> Iterator[hd.sr.QualitativeEvaluation]:
    """At the operating points that the model has."""
    for name, decision in result.decisions.items():
        if decision is not None:
            meaning = f"At {name}, from {100 * decision.threshold:.4g} % on"
            concept = hd.sr.CodedConcept(name[:16], SCHEME, meaning[:64])
            yield hd.sr.QualitativeEvaluation(concept, DECISIONS[decision.positive])


def _algorithm(result: ModelResult) -> hd.sr.AlgorithmIdentification:
    members = result.model.networks
    parameters = [f"weights SHA-256 {sha256(each.folder / WEIGHTS)}" for each in members]
    trained_on = f"training data {result.model.provenance['store_fingerprint']}"
    return hd.sr.AlgorithmIdentification(
        result.name, f"lungtl {VERSION}", parameters=[*parameters, trained_on], manufacturer="lungtl"
    )


def _remarks(result: SeriesResult) -> list[str]:
    warned = any(each.code == "phantom" for each in result.warnings)
    phantom = [MEANINGLESS] if not warned and any(is_of_phantoms(each.model) for each in result.models) else []
    return [RESEARCH_ONLY, *phantom,
            *(f"Warning ({each.code}): {each.sentence} ({each.value})" for each in result.warnings)]  # fmt: skip
