"""Who counts as malignant: from the readers' ratings to labels of nodules, slices and scans of LIDC-IDRI."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN
from lungtl.sources.lidc_nodules import MalignancyRule, Nodule, covered


@dataclass(frozen=True)
class LabelDefinition:
    """The options that decide every label; the defaults are the source paper's.

    A nodule that is left out is neither malignant nor benign, and never "no nodule": what it alone decides is
    unknown.

    Attributes:
        rule: how the readers' malignancy ratings (1..5) become one number a nodule.
        threshold: a nodule is malignant when that number reaches it.
        indeterminate: nodules rated exactly at the threshold: "keep" (as malignant) or "exclude" (left out).
        min_readers: nodules that fewer radiologists marked are left out.
    """

    rule: MalignancyRule = "mean"
    threshold: float = 3.0
    indeterminate: Literal["keep", "exclude"] = "keep"
    min_readers: int = 1

    def why_left_out(self, nodule: Nodule) -> str:
        """The reason why a nodule is left out; empty for one that counts."""
        n_readers = len(nodule.annotations)
        if n_readers < self.min_readers:
            return f"readers: {n_readers}, wanted {self.min_readers}"
        if self.indeterminate == "exclude" and nodule.malignancy(self.rule) == self.threshold:
            return f"rated exactly {self.threshold:g}"
        return ""

    def nodule_label(self, nodule: Nodule) -> int:
        """2 malignant, 1 benign, -1 left out."""
        if self.why_left_out(nodule):
            return UNKNOWN
        return MALIGNANT if nodule.is_malignant(self.rule, self.threshold) else BENIGN

    def scan_label(self, nodules: Iterable[Nodule]) -> int:
        """1 when a nodule that counts is malignant; else -1 when one that is left out could be; else 0."""
        label = 0
        for nodule in nodules:
            if nodule.is_malignant(self.rule, self.threshold):
                if not self.why_left_out(nodule):
                    return 1
                label = UNKNOWN
        return label

    def slice_labels(
        self, z_mm: NDArray[np.float64], nodules: Iterable[Nodule], native_spacing_mm: float
    ) -> NDArray[np.int8]:
        """Label slices by the nodules they cut, see `covered`.

        Malignant wins over benign, and both over a nodule that is left out, whose own slices are unknown.

        Args:
            z_mm: float64 [S], positions of the slices.
            nodules: the scan's nodules, also those that are left out.
            native_spacing_mm: distance between the slices the readers saw.

        Returns:
            int8 [S]: -1 unknown, 0 non-nodule, 1 benign, 2 malignant.
        """
        labels = np.full(len(z_mm), NON_NODULE, dtype=np.int8)
        for label, nodule in sorted(((self.nodule_label(n), n) for n in nodules), key=lambda pair: pair[0]):
            labels[covered(z_mm, nodule, native_spacing_mm)] = label  # ascending: -1, 1, 2; the last one wins
        return labels

    def describe(self) -> str:
        """The definition in one line, for cards and reports."""
        indeterminate = "kept as malignant" if self.indeterminate == "keep" else "left out"
        return (
            f"malignant when the {self.rule} rating of >= {self.min_readers} readers reaches {self.threshold:g}; "
            f"rated exactly {self.threshold:g}: {indeterminate}"
        )


def describe_labels(recipe: Mapping[str, Any]) -> str:
    """How a store's labels came about, from the recipe in its manifest."""
    if "min_readers" not in recipe:
        return "as given with the dataset"
    return LabelDefinition(**{key: recipe[key] for key in LabelDefinition.__dataclass_fields__}).describe()


def nodule_row(nodule: Nodule, definition: LabelDefinition) -> dict[str, Any]:
    """A nodule as a row of `nodules.parquet` (beside the scan's id)."""
    z_min, z_max = nodule.z_range_mm
    label = definition.nodule_label(nodule)
    return {
        "nodule": nodule.number,
        "malignancy": nodule.malignancy("mean"),
        "malignancy_median": nodule.malignancy("median"),
        "ratings": " ".join(map(str, nodule.malignancy_ratings)),
        "n_readers": len(nodule.annotations),
        "malignant": label == MALIGNANT,
        "counted": label != UNKNOWN,
        "z_min": z_min,
        "z_max": z_max,
        "diameter_mm": nodule.diameter_mm,
    }
