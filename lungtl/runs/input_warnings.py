"""Warnings about a scan that differs from what its model was trained on; docs/bundle.md lists their codes.

A scan is compared with the training bags (`ranges.json`, `reference.safetensors` of the bundle). What its header does
not state, or the training data did not, is unknown: it is listed as such and never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lungtl.bundle.card import MEANINGLESS
from lungtl.bundle.ranges import Quantiles, Ranges
from lungtl.evaluation.formatting import plural
from lungtl.sources.ct.acquisition import OTHER
from lungtl.sources.ct.lungs import LEAST_AREA_CM2

MARGIN = 0.1  # by which a number may exceed the training bags' range, as a part of it
MEASURED = {
    "z-coverage": ("z_extent_mm", "{} mm", "covers {} along z"),
    "field-of-view": ("field_mm", "{} mm", "has a field of view of {}"),
    "pixel-spacing": ("pixel_spacing_mm", "{} mm", "has a pixel spacing of {}"),
    "slice-spacing": ("native_spacing_mm", "{} mm", "has slices {} apart"),
    "slice-thickness": ("slice_thickness_mm", "{} mm", "has a slice thickness of {}"),
}
"""Code -> measure (`lungtl.bundle.ranges.NUMBERS`), its unit, and what the sentence says of it."""
UNFAMILIAR, NO_LUNGS, KERNEL, CONTRAST, PHANTOM = "unfamiliar", "no-lungs", "kernel", "contrast", "phantom"
CODES = (PHANTOM, NO_LUNGS, *MEASURED, KERNEL, CONTRAST, UNFAMILIAR)


@dataclass(frozen=True)
class InputWarning:
    """A way in which a scan differs from what the model was trained on.

    Attributes:
        code: short and stable, such as `z-coverage`.
        sentence: for a reader.
        value: what was measured, with its unit.
    """

    code: str
    sentence: str
    value: str


def compare(
    measured: Mapping[str, Any], ranges: Ranges | None, unit: str = "scan"
) -> tuple[list[InputWarning], list[str]]:
    """Compare a bag with the training bags.

    Args:
        measured: of `lungtl.bundle.ranges.measures`.
        ranges: of the model; None if its bundle has none.
        unit: what a bag is: scan, nodule or patient.

    Returns:
        The warnings, and the codes that could not be compared.
    """
    if ranges is None:
        return [], [code for code in CODES if code != UNFAMILIAR]
    found: list[InputWarning] = []
    unknown: list[str] = []
    if ranges.phantom:
        found.append(InputWarning(PHANTOM, MEANINGLESS, plural(ranges.n_phantoms, f"synthetic {unit}")))
    _compare_lungs(float(measured["lungs_cm2"]), ranges, unit, found, unknown)
    for code, (name, form, words) in MEASURED.items():
        value, trained = float(measured[name]), ranges.numbers.get(name)
        if trained is None or not np.isfinite(value):
            unknown.append(code)
        elif not trained.min * (1 - MARGIN) <= value <= trained.max * (1 + MARGIN):
            shown = form.format(_number(value))
            sentence = f"The {unit} {words.format(shown)}; the training {unit}s have {_range(trained, form)}."
            found.append(InputWarning(code, sentence, shown))
    _compare_codes(measured, ranges, unit, found, unknown)
    return found, unknown


def compare_embeddings(ratios: Sequence[float | None], unit: str = "scan") -> tuple[list[InputWarning], list[str]]:
    """Likewise, from the distance to the training bags relative to the usual one, of each network of the model."""
    known = [ratio for ratio in ratios if ratio is not None]
    if len(known) < len(ratios):
        return [], [UNFAMILIAR]
    if (ratio := float(np.median(known))) <= 1:
        return [], []
    sentence = f"To the model the {unit} looks unlike the training {unit}s: {ratio:.1f} times the usual distance."
    return [InputWarning(UNFAMILIAR, sentence, f"{ratio:.2f}")], []


def _compare_lungs(area_cm2: float, ranges: Ranges, unit: str, found: list[InputWarning], unknown: list[str]) -> None:
    trained = ranges.numbers.get("lungs_cm2")
    if trained is None or not np.isfinite(area_cm2):
        unknown.append(NO_LUNGS)
    elif area_cm2 < LEAST_AREA_CM2 <= trained.p05:
        shown = f"{area_cm2:.0f} cm2"
        sentence = (
            f"No lungs found: at most {shown} of enclosed air on a slice; the training {unit}s have "
            f"{trained.min:.0f} to {trained.max:.0f} cm2."
        )
        found.append(InputWarning(NO_LUNGS, sentence, shown))


def _compare_codes(
    measured: Mapping[str, Any], ranges: Ranges, unit: str, found: list[InputWarning], unknown: list[str]
) -> None:
    kernel, kernels = measured["kernel"], ranges.codes.get("kernel", {})
    known = {code: n for code, n in kernels.items() if code not in ("", OTHER)}
    if kernel in ("", OTHER) or not known:
        unknown.append(KERNEL)
    elif kernel not in known:
        most = sorted(known, key=lambda code: -known[code])[:3]
        sentence = f"The kernel {kernel} is not among those of the training {unit}s ({', '.join(most)}, ...)."
        found.append(InputWarning(KERNEL, sentence.replace(", ...", ", ..." if len(known) > 3 else ""), kernel))
    agents = ranges.codes.get("contrast", {})
    if not measured["contrast"] or not agents:
        unknown.append(CONTRAST)
    elif measured["contrast"] == "yes" and not agents.get("yes"):
        sentence = f"The header names a contrast agent; none of the {ranges.n} training {unit}s does."
        found.append(InputWarning(CONTRAST, sentence, "yes"))


def _range(trained: Quantiles, form: str) -> str:
    low, high = _number(trained.min), _number(trained.max)
    return form.format(low if low == high else f"{low} to {high}")


def _number(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"
