"""Which slices an evaluation shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure

from lungtl.data.store.reader import Store
from lungtl.data.store.writer import prepare
from lungtl.evaluation.figures.montage import windowed
from lungtl.evaluation.figures.outlines import HOLE, READER
from lungtl.runs.figures import (
    _draw_montage,
    central_circle,
    nodule_diameters,
    representative_slice,
    shown_cases,
)
from lungtl.runs.scored_model import ScoredModel
from lungtl.sources.lidc import LidcSource
from tests.models.tiny import tiny_classifier
from tests.sources.annotated import annotate, write_scan
from tests.stores import toy_store


def slices(weights: list[float]) -> pd.DataFrame:
    n = len(weights)
    return pd.DataFrame({"index": range(n), "z_mm": 1.5 * np.arange(n), "label": 0, "weight": weights})


@pytest.mark.parametrize(("weights", "expected"), [([0.2, 0.5, 0.3], 1), ([0.2, 0.1, 0.7], 2), ([1.0], 0)])
def test_the_slice_that_weighed_most_is_shown(weights: list[float], expected: int) -> None:
    assert representative_slice(slices(weights), True).slice_index == expected


@pytest.mark.parametrize(("n", "expected"), [(1, 0), (2, 1), (5, 2), (8, 4)])
def test_where_all_weigh_the_same_it_is_the_middle_one(n: int, expected: int) -> None:
    assert representative_slice(slices([1 / n] * n), False).slice_index == expected


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [3, 5, 4])


@pytest.mark.parametrize(
    ("weighted", "bags", "title", "slice_indices"),
    [
        (True, 2, "most heavily weighted slice", [0, 2]),
        (False, 2, "middle slice (equal weights)", [2, 1]),
        (True, 1, "most heavily weighted slice", [2]),
    ],
)
def test_the_montage_says_which_slices_it_shows(
    store: Store,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weighted: bool,
    bags: int,
    title: str,
    slice_indices: list[int],
) -> None:
    drawn: dict[str, Any] = {}

    def montage(images: Any, captions: Any, labels: Any, title: str, aspects: Any, outlines: Any) -> Figure:
        drawn.update(images=images, captions=captions, title=title)
        assert aspects == [1.0] * bags  # the spacing is unknown
        assert outlines == [[]] * bags
        return Figure()

    monkeypatch.setattr("lungtl.runs.figures.montage", montage)
    table = pd.DataFrame({"bag_id": ["b00", "b01"], "patient_id": ["p00", "p01"], "label": [0, 1],
                          "probability": [0.4, 0.9]}).head(bags)  # fmt: skip
    own = {"b00": slices([0.2, 0.2, 0.6]), "b01": slices([0.6, 0.1, 0.1, 0.1, 0.1])}
    classifier = tiny_classifier()
    model = ScoredModel(classifier, {}, None, torch.device("cpu"), None, None, None, None, None, True, False)
    _draw_montage(tmp_path, store, model, own, table, weighted, 0.5)
    assert drawn["title"].endswith(title)
    order = ["b01", "b00"] if bags == 2 else ["b00"]  # the more probable first
    assert [caption.split()[2] for caption in drawn["captions"]] == [f"{1.5 * index:.0f}" for index in slice_indices]
    window = classifier.preprocessor.windows[0]
    for image, bag_id, index in zip(drawn["images"], order, slice_indices, strict=True):
        np.testing.assert_array_equal(image, windowed(store.voxels(bag_id)[index], window))


def test_the_circle_is_around_the_centre_of_the_slice() -> None:
    for corner, centre in (((0, 0), (23.5, 19.5)), ((8, 4), (15.5, 15.5))):
        (one,) = central_circle((48, 40), corner, (0.5, 0.8), 12.0)
        assert one.points.mean(axis=0) == pytest.approx(centre)
        assert np.ptp(one.points, axis=0) == pytest.approx([24, 15], rel=0.01)
    assert central_circle((48, 40), (0, 0), (0.5, 0.8), np.nan) == []


@pytest.mark.parametrize(
    ("options", "shape", "index"),
    [({}, (24, 30), 7), ({"bag": "nodule", "field_mm": 12.0}, (12, 12), 3)],
)
def test_outlines_are_in_what_the_network_saw(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], shape: tuple[int, int], index: int
) -> None:
    """On the slice at z = 7 mm. A field of view of 9 mm is 12 pixels of 0.75 mm."""
    annotate(monkeypatch, tmp_path)
    store = prepare(LidcSource(str(write_scan(tmp_path / "scan")), **options), tmp_path / "data")
    (bag_id,) = store.bags["bag_id"]
    assert store.z_mm(bag_id)[index] == 7
    classifier = tiny_classifier()
    if options:
        classifier.preprocessor.crop_mm = [9.0, 6.0]
    drawn: dict[str, Any] = {}

    def montage(images: Any, *_: Any, outlines: Any, **__: Any) -> Figure:
        drawn.update(image=images[0], outlines=outlines[0])
        return Figure()

    monkeypatch.setattr("lungtl.runs.figures.montage", montage)
    table = pd.DataFrame({"bag_id": [bag_id], "patient_id": ["p"], "label": [1], "probability": [0.9]})
    weights = [0.0] * len(store.z_mm(bag_id))
    weights[index] = 1.0
    model = ScoredModel(classifier, {}, None, torch.device("cpu"), None, None, None, None, None, True, False)
    _draw_montage(tmp_path, store, model, {bag_id: slices(weights)}, table, weighted=True, threshold=0.5)
    assert drawn["image"].shape == shape
    assert [one.kind for one in drawn["outlines"]] == [READER, READER, HOLE]
    bright = drawn["image"] > windowed(np.array([[-250]], np.int16), classifier.preprocessor.windows[0])[0, 0]
    around, _, hole = ([one.points.min(axis=0).tolist(), one.points.max(axis=0).tolist()] for one in drawn["outlines"])
    low, high = np.argwhere(bright).min(axis=0), np.argwhere(bright).max(axis=0)
    assert around == [(low - 1).tolist(), (high + 1).tolist()]
    dark = np.argwhere(~bright[low[0] : high[0], low[1] : high[1]]) + low
    assert hole == [dark.min(axis=0).tolist(), dark.max(axis=0).tolist()]


def test_only_stores_of_single_nodules_say_where_they_are(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert nodule_diameters(store) == {}
    monkeypatch.setitem(store.manifest["recipe"], "bag", "nodule")
    assert list(nodule_diameters(store)) == list(store.bags["bag_id"])


def cases(labels: list[int], probabilities: list[float], threshold: float = 0.5) -> list[tuple[str, float]]:
    table = pd.DataFrame({"label": labels, "probability": probabilities})
    return [(kind, row.probability) for kind, row in shown_cases(table, threshold)]


def test_the_montage_shows_hits_and_errors() -> None:
    assert cases([1, 1, 0, 0, 1, 1], [0.6, 0.9, 0.7, 0.1, 0.2, 0.4]) == [
        ("hit", 0.9), ("hit", 0.6), ("false alarm", 0.7), ("miss", 0.2), ("miss", 0.4), ("rejected", 0.1)
    ]  # fmt: skip


def test_errors_keep_their_place_among_many_hits() -> None:
    labels, probabilities = [1] * 30 + [0] * 5, [*np.linspace(0.6, 0.95, 30), *np.linspace(0.6, 0.8, 5)]
    shown = cases(labels, probabilities)
    assert [kind for kind, _ in shown].count("false alarm") == 4
    assert len(shown) == 16
    assert [p for kind, p in shown if kind == "false alarm"] == sorted(probabilities[30:], reverse=True)[:4]
