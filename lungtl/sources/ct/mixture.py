"""What shows that one SeriesInstanceUID contains more than one series.

Compared are hashes of header values, so that messages cannot repeat what identifies a patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from lungtl.settings.errors import Refused
from lungtl.sources.ct.elements import Elements

# One value in the whole series.
CONSTANT = ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID", "ConvolutionKernel")
# May change along z, as from one rotation or breath-hold to the next, but not back and forth.
IN_SEQUENCE = ("AcquisitionNumber", "AcquisitionTime", "IrradiationEventUID", "SeriesNumber", "KVP", "ImageType",
               "SliceThickness")  # fmt: skip
REMEDY = "export each as a series with its own SeriesInstanceUID"


def identity(elements: Elements, thickness_mm: float) -> tuple[str, ...]:
    """Hashes of the values of CONSTANT and IN_SEQUENCE in one header; SliceThickness is rounded to 0.1 mm."""
    hashes = [elements.digest(name) for name in (*CONSTANT, *IN_SEQUENCE[:-1])]
    return (*hashes, f"{thickness_mm:.1f}")


def check_unmixed(identities: Sequence[tuple[str, ...]]) -> None:
    """Raise Refused if slices, in the order of z, belong to several series; the values are not shown."""
    for tag, values in zip((*CONSTANT, *IN_SEQUENCE), zip(*identities, strict=True), strict=True):
        different = len(set(values))
        if different == 1:
            continue
        if tag in CONSTANT:
            raise Refused(f"{tag} differs between slices: {different} values in one series", REMEDY)
        if 1 + sum(one != other for one, other in pairwise(values)) > different:
            raise Refused(f"slices of {different} {tag} values alternate along z in one series", REMEDY)
