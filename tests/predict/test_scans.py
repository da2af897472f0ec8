"""Key slices of a series: which, and what they show."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.predict.models import open_models
from lungtl.predict.page import describe, make_page
from lungtl.predict.pictures import Planes
from lungtl.predict.scans import choose_key_slices, predict_scan
from lungtl.runs.input_warnings import InputWarning
from lungtl.sources.ct.series import find_series
from tests.predict.lab import CREATED, SIZE, bundle, chest, series, thresholds


def slices(weights: list[float], native: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"index": range(len(weights)), "weight": weights, "native": native})


def test_key_slices_are_those_of_most_weight_once_for_each_native_slice() -> None:
    table = slices([0.1, 0.3, 0.05, 0.25, 0.2, 0.1], [0, 1, 1, 1, 2, 3])
    assert choose_key_slices(table) == [1, 4, 0, 5]


def test_equal_weights_give_slices_at_equal_distances() -> None:
    assert choose_key_slices(slices([1 / 61] * 61, list(range(61)))) == [5, 15, 25, 35, 45, 55]
    assert choose_key_slices(slices([0.5, 0.5], [0, 1])) == [0, 1]


def test_a_key_slice_shows_its_native_pixels(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    (one,), _ = find_series(tmp_path / "scans")
    models = open_models([str(bundle(tmp_path / "model"))], tmp_path, "cpu", ())
    result, volume = predict_scan(models, one, "scans", 10.0)
    for key in result.key_slices:
        place = int(np.flatnonzero(one.z_mm == key.z_mm)[0])
        expected = (chest()[place].astype(np.float64) - 1024 + 1350) / 1500 * 255
        np.testing.assert_array_equal(key.image, expected.clip(0, 255).astype(np.uint8))
        assert key.heatmap is not None
        assert key.heatmap.shape == (SIZE, SIZE)
    assert max(key.heatmap.max() for key in result.key_slices if key.heatmap is not None) == pytest.approx(1)
    assert volume.hu.shape == (16, SIZE, SIZE)


def test_the_page_of_a_series(tmp_path: Path) -> None:
    uid = series(tmp_path / "scans")
    (one,), _ = find_series(tmp_path / "scans")
    folder = bundle(tmp_path / "model", chosen=thresholds(), choices={"dataset": "phantom"}, store="<b>store</b>")
    models = open_models([str(folder)], tmp_path, "cpu", ())
    assert models[0].phantom
    result, volume = predict_scan(models, one, "scans", 10.0)
    from lungtl.predict.about import about

    page = make_page(result, Planes.of(volume), [about(models[0])], True, {}, CREATED)
    html = page.html
    assert f"a probability of malignancy of {100 * result.probability:.1f}\N{NO-BREAK SPACE}%" in html
    assert html.index("means nothing clinically") < html.index("a probability of malignancy")  # warnings on top
    assert uid in html
    assert "&lt;b&gt;store" in html
    assert "<b>store" not in html
    assert "default-src 'none'" in html
    assert "<script" not in html
    assert "http" not in html.replace("http-equiv", "")  # self-contained
    for key in result.key_slices:
        assert f"{key.rank}: z {key.z_mm:g} mm, instance {key.instance_number}, weight" in html
    first, second = page.result.pages
    assert first.shape == second.shape
    assert first.dtype == np.uint8


def test_sentences_about_a_decision_and_several_models(tmp_path: Path) -> None:
    series(tmp_path / "scans")
    (one,), _ = find_series(tmp_path / "scans")
    references = [str(bundle(tmp_path / name, seed, chosen=thresholds())) for seed, name in enumerate(("a", "b"))]
    models = open_models(references, tmp_path, "cpu", ())
    single, _ = predict_scan(models[:1], one, "", 10.0)
    called = "positive" if single.probability >= 0.2 else "negative"
    assert any(f"(0.200, chosen on validation cases) it is {called}" in line for line in describe(single))
    both, _ = predict_scan(models, one, "", 10.0)
    assert describe(both)[0].startswith("The 2 models together give this scan a probability of malignancy of")
    assert [line.split(":")[0] for line in describe(both)[1:]] == ["tiny (a)", "tiny (b)"]


def test_warnings_of_several_models_are_shown_once() -> None:
    from types import SimpleNamespace

    from lungtl.predict.result import SeriesResult

    one, two = InputWarning("kernel", "a", "x"), InputWarning("contrast", "b", "yes")
    models = [SimpleNamespace(prediction=SimpleNamespace(warnings=w)) for w in ((one,), (one, two))]
    assert SeriesResult.warnings.fget(SimpleNamespace(models=models)) == [one, two]  # type: ignore[attr-defined]
