"""When a scan is said to differ from the training scans, and when nothing is known."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import pytest

from lungtl.bundle.ranges import Quantiles, Ranges
from lungtl.runs.input_warnings import CODES, InputWarning, compare, compare_embeddings

SCAN = {
    "z_extent_mm": 320.0, "n_slices": 321.0, "field_mm": 350.0, "pixel_spacing_mm": 0.7, "native_spacing_mm": 1.25,
    "slice_thickness_mm": 1.25, "lungs_cm2": 250.0, "kernel": "LUNG", "contrast": "", "manufacturer": "GE",
}  # fmt: skip


def spread(low: float, high: float) -> Quantiles:
    middle = (low + high) / 2
    return Quantiles(9, low, low, low, middle, middle, middle, high, high, high)


def ranges(**changes: Any) -> Ranges:
    numbers = {
        "z_extent_mm": spread(250, 400), "field_mm": spread(300, 400), "pixel_spacing_mm": spread(0.6, 0.8),
        "native_spacing_mm": spread(1, 2.5), "slice_thickness_mm": spread(1, 2.5), "lungs_cm2": spread(180, 330),
    }  # fmt: skip
    codes = {"kernel": {"LUNG": 5, "BONE": 3, "": 1}, "contrast": {"": 9}}
    content: dict[str, Any] = {"n": 9, "source": "lidc", "numbers": numbers, "codes": codes, "scores": {}}
    return Ranges(**content | changes)


def codes_of(scan: dict[str, Any], trained: Ranges | None = None) -> list[str]:
    return [warning.code for warning in compare(scan, trained or ranges())[0]]


def test_a_scan_like_the_training_scans_has_no_warning() -> None:
    warnings, unknown = compare(SCAN, ranges())
    assert warnings == []
    assert unknown == ["contrast"]  # its header states nothing


@pytest.mark.parametrize(
    ("change", "code", "value"),
    [
        ({"z_extent_mm": 14.0}, "z-coverage", "14 mm"),
        ({"z_extent_mm": 900.0}, "z-coverage", "900 mm"),
        ({"field_mm": 70.0}, "field-of-view", "70 mm"),
        ({"pixel_spacing_mm": 0.98}, "pixel-spacing", "0.98 mm"),
        ({"native_spacing_mm": 5.0}, "slice-spacing", "5 mm"),
        ({"slice_thickness_mm": 5.0}, "slice-thickness", "5 mm"),
        ({"lungs_cm2": 20.0}, "no-lungs", "20 cm2"),
        ({"kernel": "B70F"}, "kernel", "B70F"),
        ({"contrast": "yes"}, "contrast", "yes"),
    ],
)
def test_each_difference_has_its_code_and_value(change: dict[str, Any], code: str, value: str) -> None:
    (warning,) = compare(SCAN | change, ranges())[0]
    assert (warning.code, warning.value) == (code, value)
    assert value in warning.sentence or code == "contrast"
    assert warning.sentence.endswith(".")


def test_the_sentence_states_both() -> None:
    ((warning,), _) = compare(SCAN | {"z_extent_mm": 14.0}, ranges(), unit="scan")
    assert warning.sentence == "The scan covers 14 mm along z; the training scans have 250 to 400 mm."


def test_a_tenth_beyond_the_range_is_not_warned_about() -> None:
    for name, low, high in (("field_mm", 300, 400), ("pixel_spacing_mm", 0.6, 0.8)):
        assert codes_of(SCAN | {name: 0.91 * low}) == codes_of(SCAN | {name: 1.09 * high}) == []
        assert len(codes_of(SCAN | {name: 0.89 * low})) == len(codes_of(SCAN | {name: 1.11 * high})) == 1


def test_what_is_not_stated_is_unknown_and_never_warned_about() -> None:
    nothing = {name: "" if isinstance(value, str) else math.nan for name, value in SCAN.items()}
    warnings, unknown = compare(nothing, ranges())
    assert warnings == []
    assert {*unknown, "phantom", "unfamiliar"} == set(CODES)
    warnings, unknown = compare(SCAN | {"contrast": "yes"}, ranges(numbers={}, codes={}))
    assert warnings == []
    assert {*unknown, "phantom", "unfamiliar"} == set(CODES)
    assert compare(SCAN, None)[0] == []
    assert codes_of(SCAN | {"kernel": "other"}) == []
    assert codes_of(SCAN, ranges(codes={"kernel": {"": 4, "other": 5}})) == []


def test_training_slabs_without_lungs_do_not_miss_them() -> None:
    without = ranges(numbers={"lungs_cm2": spread(0, 60)})
    assert codes_of(SCAN | {"lungs_cm2": 10.0}, without) == []


def test_a_trained_contrast_agent_is_familiar() -> None:
    assert codes_of(SCAN | {"contrast": "yes"}, ranges(codes={"contrast": {"yes": 1, "": 8}})) == []


def test_a_model_of_phantoms_always_says_so() -> None:
    (warning,) = compare(SCAN, ranges(source="phantom"))[0]
    assert warning.code == "phantom"
    assert "means nothing clinically" in warning.sentence


def test_the_embedding_is_judged_by_the_median_network() -> None:
    assert compare_embeddings([0.7]) == ([], [])
    assert compare_embeddings([1.6, 0.2, 0.9]) == ([], [])
    expected = "To the model the nodule looks unlike the training nodules: 1.6 times the usual distance."
    assert compare_embeddings([1.6, 0.2, 3.0], "nodule") == ([InputWarning("unfamiliar", expected, "1.60")], [])
    assert compare_embeddings([1.6, None]) == ([], ["unfamiliar"])


def test_every_code_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "bundle.md").read_text()
    assert sorted(re.findall(r"^\| `([a-z-]+)` \|", page.partition("## Warnings")[2], re.M)) == sorted(CODES)
