"""What a bundle keeps of the training bags."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.bundle.files import RANGES
from lungtl.bundle.ranges import Quantiles, Ranges, measures, merge_ranges, read_ranges, training_ranges, write_ranges
from lungtl.settings.errors import LungtlError
from tests.stores import toy_store

SCORES = pd.DataFrame({"label": [0, 0, 0, 1], "probability": [0.1, 0.2, 0.6, 0.9]})


def quantiles(low: float, high: float, n: int = 3) -> Quantiles:
    found = Quantiles.of(np.linspace(low, high, n))
    assert found is not None
    return found


def test_quantiles_are_those_of_the_finite_values() -> None:
    found = Quantiles.of([3.0, np.nan, 1.0, 2.0, 5.0, 4.0])
    assert found == Quantiles(5, 1, 1.2, 1.4, 2, 3, 4, 4.6, 4.8, 5)  # linear between the order statistics
    assert Quantiles.of([np.nan]) is None


def test_the_training_bags_alone_are_described(tmp_path: Path) -> None:
    spacings = [(0.5, 0.6), (0.7, 0.7), (0.9, 0.8), (9.0, 9.0)]
    store = toy_store(tmp_path, [3, 5, 9, 50], spacings=spacings)
    split = store.bags[["bag_id"]].assign(split=["train", "train", "extra", "test"])
    found = training_ranges(store, split, {"val": SCORES})
    assert found.n == 3
    assert found.source == "toy"
    assert not found.phantom
    numbers = found.numbers
    assert (numbers["n_slices"].min, numbers["n_slices"].max) == (3, 9)
    assert (numbers["z_extent_mm"].min, numbers["z_extent_mm"].max) == (3.0, 12.0)  # slices 1.5 mm apart
    assert (numbers["pixel_spacing_mm"].min, numbers["pixel_spacing_mm"].max) == (0.6, 0.9)
    assert (numbers["field_mm"].min, numbers["field_mm"].max) == (32 * 0.6, 32 * 0.9)
    assert {"slice_thickness_mm", "lungs_cm2"}.isdisjoint(numbers)  # as in a store of an older version
    assert found.codes == {}
    assert found.scores["val"]["0"].p50 == 0.2
    assert found.scores["val"]["1"].n == 1
    write_ranges(found, tmp_path)
    assert read_ranges(tmp_path) == found
    assert read_ranges(tmp_path / "elsewhere") is None


def test_unknown_measures_are_nan_or_empty() -> None:
    found = measures((4, 8, 6), np.full(4, np.nan), (math.nan, math.nan), {"kernel": math.nan, "native_spacing_mm": 2})
    assert [name for name, value in found.items() if isinstance(value, float) and math.isfinite(value)] == [
        "n_slices", "native_spacing_mm"
    ]  # fmt: skip
    assert (found["kernel"], found["contrast"]) == ("", "")


def test_an_ensemble_covers_what_its_members_cover() -> None:
    one = Ranges(3, "dicom", {"field_mm": quantiles(300, 340)}, {"kernel": {"LUNG": 3}}, {})
    other = Ranges(5, "dicom", {"field_mm": quantiles(320, 400, 5)}, {"kernel": {"LUNG": 1, "": 4}}, {})
    merged = merge_ranges([one, other], {"test": SCORES})
    assert merged is not None
    assert merged.n == 5
    field = merged.numbers["field_mm"]
    assert (field.n, field.min, field.p50, field.max) == (5, 300, 340, 400)
    assert merged.codes == {"kernel": {"": 4, "LUNG": 3}}
    assert merged.scores["test"]["1"].max == 0.9
    assert merge_ranges([one, None], {}) is None


def test_synthetic_scans_are_known_from_any_kind_of_dataset() -> None:
    found = Ranges(5, "dicom", {}, {"manufacturer": {"GE": 3, "lungtl phantom": 2}}, {})
    assert (found.phantom, found.n_phantoms) == (True, 2)
    assert not Ranges(5, "dicom", {}, {"manufacturer": {"GE": 5}}, {}).phantom
    assert Ranges(5, "phantom", {}, {}, {}).n_phantoms == 5  # of an older store


@pytest.mark.parametrize("content", ["", "[]", '{"n": 3}', '{"n": 1, "source": "x", "numbers": {"a": 1}}'])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    (tmp_path / RANGES).write_text(content)
    with pytest.raises(LungtlError, match=r"damaged bundle \(ranges\.json") as error:
        read_ranges(tmp_path)
    assert "\n" not in str(error.value)


def test_the_file_is_plain_json(tmp_path: Path) -> None:
    write_ranges(Ranges(1, "dicom", {"field_mm": quantiles(1, 2)}, {}, {}), tmp_path)
    content = json.loads((tmp_path / RANGES).read_text())
    assert list(content) == ["n", "source", "numbers", "codes", "scores"]
    assert list(content["numbers"]["field_mm"]) == ["n", "min", "p05", "p10", "p25", "p50", "p75", "p90", "p95", "max"]
