"""Labels of LIDC-IDRI nodules, slices and scans, derived from the readers' malignancy ratings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.sources.base import BENIGN, MALIGNANT, NON_NODULE, UNKNOWN
from lungtl.sources.lidc_database import RATINGS
from lungtl.sources.lidc_nodules import MalignancyRule, Nodule, covered_slices

RATING = "rating_"
"""Prefix of the columns of mean ratings in `bags.parquet` and `nodules.parquet`."""
RATINGS_BESIDE_MALIGNANCY = tuple(name for name in RATINGS if name != "malignancy")


@dataclass(frozen=True)
class LabelDefinition:
    """The options that define every label; the defaults are those of the source paper.

    An excluded nodule is neither malignant nor benign, and never counts as "no nodule": a label that depends on it
    alone is unknown.
    """

    rule: MalignancyRule = "mean"  # combines the readers' malignancy ratings (1..5) of a nodule into one number
    threshold: float = 3.0  # a nodule is malignant if that number is at least the threshold
    indeterminate: Literal["keep", "exclude"] = "keep"  # nodules rated exactly at the threshold; keep: as malignant
    min_readers: int = 1  # nodules marked by fewer radiologists are excluded

    def exclusion(self, nodule: Nodule) -> str:
        """The reason why a nodule is excluded; empty for a nodule that counts."""
        n_readers = len(nodule.annotations)
        if n_readers < self.min_readers:
            return f"readers: {n_readers} of {self.min_readers} required"
        if self.indeterminate == "exclude" and nodule.malignancy(self.rule) == self.threshold:
            return f"rated exactly {self.threshold:g}"
        return ""

    def nodule_label(self, nodule: Nodule) -> int:
        """2 malignant, 1 benign, -1 excluded."""
        if self.exclusion(nodule):
            return UNKNOWN
        return MALIGNANT if nodule.is_malignant(self.rule, self.threshold) else BENIGN

    def scan_label(self, nodules: Iterable[Nodule]) -> int:
        """1 if a counted nodule is malignant; otherwise -1 if an excluded one could be; otherwise 0."""
        label = 0
        for nodule in nodules:
            if nodule.is_malignant(self.rule, self.threshold):
                if not self.exclusion(nodule):
                    return 1
                label = UNKNOWN
        return label

    def slice_labels(
        self, z_mm: NDArray[np.float64], nodules: Iterable[Nodule], native_spacing_mm: float
    ) -> NDArray[np.int8]:
        """Label slices at z_mm by the nodules on them, see `covered_slices`: int8 [S].

        Malignant takes precedence over benign, and both over an excluded nodule, whose own slices are unknown.
        `nodules` are all nodules of the scan, including excluded ones.
        """
        labels = np.full(len(z_mm), NON_NODULE, dtype=np.int8)
        for label, nodule in sorted(((self.nodule_label(n), n) for n in nodules), key=lambda pair: pair[0]):
            labels[covered_slices(z_mm, nodule, native_spacing_mm)] = label  # ascending: -1, 1, 2; the last one wins
        return labels

    def describe(self) -> str:
        """The definition in one line, for model cards and reports."""
        indeterminate = "malignant" if self.indeterminate == "keep" else "excluded"
        readers = "1 reader" if self.min_readers == 1 else f"{self.min_readers} readers"
        return (
            f"malignant if the {self.rule} rating of at least {readers} is {self.threshold:g} or "
            f"more; rated exactly {self.threshold:g}: {indeterminate}"
        )


def reader_votes(ratings: Sequence[int]) -> float:
    """Share of the readers who call a nodule malignant, 0..1: ratings above 3 count 1, the indeterminate 3 counts 1/2.

    NaN without a rating. It is the label of `loss=votes`, which needs no threshold.
    """
    return float(np.mean([0.5 * (1 + np.sign(rating - 3)) for rating in ratings])) if ratings else float("nan")


def describe_labels(recipe: Mapping[str, Any]) -> str:
    """The label definition of a store, from the recipe in its manifest."""
    if "min_readers" not in recipe:
        return "as provided with the dataset"
    return LabelDefinition(**{key: recipe[key] for key in LabelDefinition.__dataclass_fields__}).describe()


def highest_rating(name: str) -> int:
    """The upper end of a characteristic's scale, which begins at 1 (see pylidc's `Annotation`)."""
    return {"calcification": 6, "internalStructure": 4}.get(name, 5)


def mean_ratings(nodule: Nodule) -> dict[str, float]:
    """The mean over a nodule's readers of each rating beside malignancy: rating_subtlety, ..."""
    return {
        RATING + name: fmean(annotation.ratings[name] for annotation in nodule.annotations)
        for name in RATINGS_BESIDE_MALIGNANCY
    }


def nodule_row(nodule: Nodule, definition: LabelDefinition) -> dict[str, Any]:
    """The columns of `nodules.parquet` that follow the scan's id."""
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
