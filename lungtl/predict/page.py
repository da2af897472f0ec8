"""The page of one series or nodule: what report.html and report.png show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from lungtl.bundle.card import MEANINGLESS, RESEARCH_ONLY
from lungtl.bundle.ranges import Quantiles
from lungtl.evaluation.page import render
from lungtl.predict.about import About, decisions_table
from lungtl.predict.pictures import Planes, heated, legend, outlined, overview, png
from lungtl.predict.result import SeriesResult
from lungtl.predict.scale import scale
from lungtl.predict.sheets import caption, padded, sheets
from lungtl.runs.input_warnings import PHANTOM, InputWarning
from lungtl.settings.version import VERSION

HERE = Path(__file__).parent
LEAST = 0.001  # no model is surer than that
TEMPLATE, STYLE = HERE / "page.html.j2", HERE / "page.css"


@dataclass(frozen=True)
class Page:
    """One page."""

    html: str
    picture: bytes  # PNG
    result: SeriesResult  # with its pages as pictures


def make_page(
    result: SeriesResult,
    planes: Planes,
    models: Sequence[About],
    phantom: bool,
    reference: Mapping[str, Quantiles],
    created: str,
) -> Page:
    """Draw and render the page.

    Args:
        result: of one series or nodule.
        planes: of its volume.
        models: what is known of each of its models, in the same order.
        phantom: whether synthetic scans trained one of them.
        reference: of `scale`.
        created: when.
    """
    warnings = result.warnings
    if phantom and not any(warning.code == PHANTOM for warning in warnings):
        warnings = [InputWarning(PHANTOM, MEANINGLESS, ""), *warnings]
    pictures = {"scale": scale(result, reference), "overview": overview(planes, result)}
    sentences = describe(result)
    facts = _facts(result, created)
    lines = [
        title(result), *(f"Warning: {warning.sentence}" for warning in warnings), *sentences,
        *(f"{name}: {text}" for name, text in facts.items()),
        *(f"Model {each.name}: trained on {each.facts['trained on']}." for each in models), RESEARCH_ONLY,
    ]  # fmt: skip
    pages = sheets(result, lines, [pictures["scale"], pictures["overview"]])
    spacing = result.series.pixel_spacing_mm
    images = {name: png(picture) for name, picture in pictures.items()}
    for key in result.key_slices:
        images[f"slice-{key.rank}"] = png(outlined(key.image, key.outlines, spacing))
        if key.heatmap is not None:
            images[f"heat-{key.rank}"] = png(outlined(heated(key), key.outlines, spacing))
    html = render(
        TEMPLATE,
        images,
        STYLE,
        title=title(result),
        note=RESEARCH_ONLY,
        warnings=warnings,
        sentences=sentences,
        facts=facts,
        slices=[(key.rank, caption(key)) for key in result.key_slices],
        heatmaps=any(key.heatmap is not None for key in result.key_slices),
        equal=result.equal_weights,
        lines=legend(result.key_slices),
        models=[
            (about, decisions_table(about, each.decisions)) for about, each in zip(models, result.models, strict=True)
        ],
        version=VERSION,
    )
    return Page(html, png(np.concatenate(pages)), replace(result, pages=padded(pages)))


def title(result: SeriesResult) -> str:
    """Of the page."""
    return "Malignancy of a lung nodule in chest CT" if result.point else "Malignancy in a chest CT"


def describe(result: SeriesResult) -> list[str]:
    """The result in sentences."""
    what = "nodule" if result.point else "scan"
    several = len(result.models) > 1
    first = result.models[0]
    who = f"The {len(result.models)} models together give" if several else "The model gives"
    sentences = [f"{who} this {what} a probability of malignancy of {_percent(result.probability)}."]
    if result.spread is not None:
        values = [p for each in result.models for p in each.prediction.of_members]
        sentences[0] = (
            f"{sentences[0][:-1]}, the mean of {len(values)} networks from {_percent(min(values))} to "
            f"{_percent(max(values))} (standard deviation {100 * result.spread:.1f} percentage points)."
        )
    if not several and first.prediction.calibrated is not None:
        sentences.append(f"Calibrated on the model's validation cases: {_percent(first.prediction.calibrated)}.")
    if not several and first.with_covariates is not None:
        sentences.append(f"With diameter and density of the nodule: {_percent(first.with_covariates)}.")
    if not several and (decision := first.decisions.get("youden")) is not None:
        called = "positive" if decision.positive else "negative"
        sentences.append(
            f"At the threshold that balances sensitivity and specificity best ({decision.threshold:.3f}, chosen on "
            f"validation cases) it is {called}."
        )
    for each in result.models if several else ():
        sentences.append(f"{each.name}: {_percent(each.prediction.probability)}.")
    return sentences


def _percent(p: float) -> str:
    """'37.0 %'; never 0 or 100."""
    bound = "under " if p < LEAST else "over " if p > 1 - LEAST else ""
    return f"{bound}{100 * min(max(p, LEAST), 1 - LEAST):.1f}\N{NO-BREAK SPACE}%"


def _facts(result: SeriesResult, created: str) -> dict[str, str]:
    series, point = result.series, result.point
    rows, columns = series.shape
    low, high = series.z_mm[[0, -1]]
    facts = {
        "SeriesInstanceUID": series.uid,
        "slices": f"{len(series.files)} of {rows} x {columns}, {series.native_spacing_mm:g} mm apart, z {low:g} to "
        f"{high:g} mm",
    }
    if point is not None:
        x, y, z = point.position_mm
        diameter = f", diameter {point.diameter_mm:.1f} mm" if point.diameter_mm > 0 else ""
        facts["nodule"] = (
            f"number {point.number}, at x {x:.1f}, y {y:.1f}, z {z:.1f} mm (DICOM patient coordinates){diameter}"
        )
    return {**facts, "predicted": f"{created}, lungtl {VERSION}"}
