"""Outlines on the key slices of a prediction: the readers' where the series is LIDC-IDRI's, else a point's circle."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lungtl.evaluation.figures.outlines import CIRCLE, HOLE, READER
from lungtl.predict import scans
from lungtl.predict.models import NamedModel, open_models
from lungtl.predict.points import predict_point
from lungtl.predict.result import SeriesResult
from lungtl.predict.scans import predict_scan
from lungtl.sources.ct.series import Series
from lungtl.sources.ct.volume import read_volume
from lungtl.sources.points import Point
from tests.predict.lab import bundle
from tests.sources.annotated import AROUND_NODULE, DRAWN_Z, annotate, write_scan
from tests.sources.ct.found import only


@pytest.fixture
def series(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Series:
    annotate(monkeypatch, tmp_path)
    monkeypatch.setattr(scans, "slice_heatmaps", lambda _, frames, *__: np.ones((len(frames), *frames.shape[2:])))
    return only(write_scan(tmp_path / "scan"))


def models(folder: Path, **facts: Any) -> list[NamedModel]:
    return open_models([str(bundle(folder / "model", **facts))], folder, "cpu", ())


def kinds(result: SeriesResult) -> dict[float, list[str]]:
    return {key.z_mm: [outline.kind for outline in key.outlines] for key in result.key_slices}


def test_a_whole_series(tmp_path: Path, series: Series, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scans, "SHOWN", 9)
    result, _ = predict_scan(models(tmp_path), series, "scan", 10.0)
    expected = {float(z): [READER] * 2 if z in DRAWN_Z else [] for z in series.z_mm}
    assert kinds(result) == {**expected, 7.5: [READER, READER, HOLE]}
    key = next(key for key in result.key_slices if key.z_mm == 5)
    corners = [key.outlines[0].points.min(axis=0).tolist(), key.outlines[0].points.max(axis=0).tolist()]
    assert corners == [list(corner) for corner in AROUND_NODULE]


@pytest.mark.parametrize(
    ("pixel", "diameter_mm", "drawn"),
    [((15.5, 7.5), 6.0, {READER, HOLE}), ((6.0, 24.0), 3.0, {CIRCLE}), ((6.0, 24.0), math.nan, set())],
)
def test_a_point(
    tmp_path: Path, series: Series, pixel: tuple[float, float], diameter_mm: float, drawn: set[str]
) -> None:
    """A square of 9 mm around a (row, column): the nodule and its outline, or tissue."""
    x, y, _ = series.files[0].position_mm
    point = Point(0, "", -1, (x + pixel[1] * 0.75, y + pixel[0] * 0.75, 7.5), diameter_mm, None)
    nodules = models(tmp_path, bag="nodule", field_mm=9.0, depth_mm=6.0)
    result = predict_point(nodules, series, "scan", read_volume(series), point)
    assert {kind for own in kinds(result).values() for kind in own} == drawn
    for key in result.key_slices:
        for outline in key.outlines:
            if outline.kind == READER:
                nodule = np.argwhere(key.image > 187)  # -250 HU, halfway between nodule and tissue
                assert outline.points.min(axis=0).tolist() == (nodule.min(axis=0) - 1).tolist()
                assert outline.points.max(axis=0).tolist() == (nodule.max(axis=0) + 1).tolist()
            elif outline.kind == CIRCLE:
                centre = (key.image.shape[0] - 1) / 2, (key.image.shape[1] - 1) / 2
                assert np.abs(outline.points.mean(axis=0) - centre).max() < 0.51
