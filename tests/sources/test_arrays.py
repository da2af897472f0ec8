"""Arrays and tables: tiny ones written here, and the real pair `lidc_maxslice`."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from lungtl.settings.errors import LungtlError, Refused
from lungtl.sources import npz
from lungtl.sources.arrays import ArraysSource
from lungtl.sources.base import Bag
from tests.real_data import folder, needs

TABLE = "id,patient_id,label\na,p1,0\nb,p2,1\nc,p3,\n"
IMAGES = np.arange(-100, -40, dtype=np.int16).reshape(3, 4, 5)

Make = Callable[..., ArraysSource]


def writer(folder: Path) -> Make:
    """What writes a table and arrays to a folder, and builds the source on them."""

    def write(table: str = TABLE, images: Any = IMAGES, more: dict[str, Any] | None = None, **options: Any) -> Any:
        np.savez_compressed(folder / "crops.npz", images=images, **(more or {}))
        (folder / "crops.csv").write_text(table, encoding="utf-8")
        return ArraysSource(str(folder / "crops.npz"), str(folder / "crops.csv"), **options)

    return write


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return writer(tmp_path)


def bags(source: ArraysSource) -> dict[str, Bag]:
    return {item.bag_id: source.load(item) for item in source.inventory().items}


def refusals(source: ArraysSource) -> dict[str, str]:
    return {refusal.item: refusal.reason for refusal in source.inventory().refusals}


# Bags


def test_images_become_bags_of_one_slice(make: Make) -> None:
    found = bags(make())
    assert [(b.bag_id, b.patient_id, b.bag_label, b.slice_labels.tolist()) for b in found.values()] == [
        ("a", "p1", 0, [1]),
        ("b", "p2", 1, [2]),
        ("c", "p3", -1, [-1]),
    ]
    assert (found["b"].voxels == IMAGES[1]).all()
    assert found["b"].voxels.shape == (1, 4, 5)
    assert np.isnan([found["b"].diameter_mm, *found["b"].z_mm, *found["b"].pixel_spacing_mm]).all()


def test_stacks_become_bags_of_unlabelled_slices(make: Make) -> None:
    found = bags(make(images=np.arange(-7, 113).reshape(3, 2, 4, 5)))
    assert found["b"].voxels.shape == (2, 4, 5)
    assert found["b"].voxels[1, 0, 0] == 2 * 20 + 20 - 7
    assert found["b"].bag_label == 1
    assert found["b"].slice_labels.tolist() == [-1, -1]


def test_all_columns(make: Make) -> None:
    table = (
        "nr,who,bad,part,shift,width,mm,z\n7,p1,true,val,-1024,12.5,0.7,-33.5\n8,p2,False,,0,,,\n9,p3,NaN,pool,0,,,\n"
    )
    source = make(
        table, id_column="nr", patient_column="who", label_column="bad", split_column="part",
        hu_offset_column="shift", diameter_column="width", pixel_spacing_column="mm", z_column="z",
    )  # fmt: skip
    found = bags(source)
    first, second, third = found.values()
    assert (first.bag_label, first.split, first.diameter_mm) == (1, "val", 12.5)
    assert (first.pixel_spacing_mm, first.z_mm.tolist()) == ((0.7, 0.7), [-33.5])
    assert (first.voxels == IMAGES[0] - 1024).all()
    assert (second.bag_label, second.split) == (0, None)
    assert np.isnan([second.diameter_mm, second.z_mm[0], second.pixel_spacing_mm[0]]).all()
    assert (third.bag_label, third.split) == (-1, None)


def test_density_and_the_table_s_covariates_are_kept(make: Make) -> None:
    table = "id,patient_id,label,mm,width,age,packs\na,p1,0,1,2.3,61,\nb,p2,1,1,,58.5,2\nc,p3,,,4,70,nan\n"
    source = make(table, diameter_column="width", pixel_spacing_column="mm", covariate_columns=["age", "packs"])
    first, second, third = (bag.details for bag in bags(source).values())
    disc = IMAGES[0][1:3, 1:4]  # within 1.15 mm of (1.5, 2): rows 1 and 2, columns 1 to 3
    assert first["density"] == pytest.approx(np.percentile(disc, 98))
    assert (first["age"], second["age"], second["packs"]) == (61, 58.5, 2)
    assert np.isnan([first["packs"], second["density"], third["density"], third["packs"]]).all()
    assert make(table).recipe() != make(table, covariate_columns=["age"]).recipe()


def test_covariates_that_cannot_be_kept(make: Make) -> None:
    table = "id,patient_id,label,age,split\na,p1,0,old,1\nb,p2,1,50,2\nc,p3,0,60,3\n"
    with pytest.raises(LungtlError, match=r"covariate_columns=sex: crops.csv has no such column"):
        make(table, covariate_columns=["sex"]).inventory()
    with pytest.raises(LungtlError, match=r"covariate_columns=split: a store has a column of this name"):
        make(table, covariate_columns=["split"]).inventory()
    assert refusals(make(table, covariate_columns=["age"])) == {"a": "age is old, expected a number"}


def test_an_id_array_links_lines_in_any_order(make: Make) -> None:
    source = make("id,patient_id,label\n30,p,1\n10,p,0\n20,p,0\n", more={"number": [10, 20, 30]}, npz_id_key="number")
    assert {key: bag.voxels[0, 0, 0] for key, bag in bags(source).items()} == {"30": -60, "10": -100, "20": -80}


@pytest.mark.parametrize("ids", [["a", "b", "c"], [b"a", b"b", b"c"]])
def test_ids_may_be_text_or_bytes(make: Make, ids: list[Any]) -> None:
    assert len(bags(make(more={"ids": ids}, npz_id_key="ids"))) == 3


# Values


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    values=st.lists(st.floats(-32768, 32767, width=32), min_size=2, max_size=2),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_fractions_are_rounded_and_nothing_else_happens(make: Make, values: list[float], dtype: Any) -> None:
    found = bags(make(images=np.array([-1000, *values], dtype=dtype).reshape(3, 1, 1)))
    stored = [int(bag.voxels[0, 0, 0]) for bag in found.values()]
    assert stored == [-1000, *(int(np.rint(value)) for value in values)]


def test_the_offset_applies_before_the_range_is_checked(make: Make) -> None:
    table = "id,patient_id,label,offset\na,p,0,-41124\nb,p,0,-40000.4\nc,p,0,0\n"
    source = make(table, np.full((3, 1, 1), 40100, dtype=np.uint16), hu_offset_column="offset")
    a, b, c = source.inventory().items
    assert source.load(a).voxels.tolist() == [[[-1024]]]
    assert source.load(b).voxels.tolist() == [[[100]]]
    with pytest.raises(Refused, match=r"pixels are 40100\.\.40100, expected -32768\.\.32767; check dataset"):
        source.load(c)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_not_finite(make: Make, value: float) -> None:
    images = np.full((3, 2, 2), -5.0)
    images[1, 0, 0] = value
    source = make(images=images)
    first, second, _ = source.inventory().items
    assert source.load(first).voxels.max() == -5
    with pytest.raises(Refused, match="1 pixels are not finite"):
        source.load(second)


def test_grey_values_have_a_range_of_their_own(make: Make) -> None:
    assert make().value_range is None
    source = make(images=np.array([0, 200, 256]).reshape(3, 1, 1), hu=False)
    assert source.value_range == (0, 255)
    assert pickle.loads(pickle.dumps(source)).value_range == (0, 255)  # noqa: S301
    items = source.inventory().items
    assert source.load(items[1]).voxels[0, 0, 0] == 200
    with pytest.raises(Refused, match=r"pixels are 256\.\.256, expected 0\.\.255; set dataset\.low"):
        source.load(items[2])


def test_grey_values_must_be_whole_since_rounding_would_lose_them(make: Make) -> None:
    source = make(images=np.full((3, 1, 1), 0.25), hu=False, low=0, high=1)
    with pytest.raises(Refused, match=r"fractional, such as 0\.25; scale the images"):
        bags(source)


@pytest.mark.parametrize(("low", "high"), [(255, 0), (0, 0), (0, 65535)])
def test_an_invalid_range(make: Make, low: int, high: int) -> None:
    with pytest.raises(LungtlError, match=rf"dataset\.low={low} and dataset\.high={high} are not a range"):
        make(hu=False, low=low, high=high)


@pytest.mark.parametrize(
    ("images", "remedy"),
    [
        (np.linspace(0, 1, 75, dtype=np.float32), r"values from 0 to 1, .* scale them to .* and set dataset\.hu=false"),
        (np.linspace(-1, 1, 75), r"values from -1 to 1, which are not HU .* and set dataset\.hu=false"),
        (np.arange(75, dtype=np.uint8) * 3, r"0 to 222, .* set dataset\.hu=false dataset\.low=0 dataset\.high=222"),
        (np.arange(75) * 50, r"from 0 to 3700, .* for raw CT values set dataset\.hu_offset_column"),
    ],
)
def test_values_that_cannot_be_hu(make: Make, images: Any, remedy: str) -> None:
    with pytest.raises(LungtlError, match=remedy):
        make(images=images.reshape(3, 5, 5)).inventory()


def test_an_offset_makes_raw_values_hu(make: Make) -> None:
    table = "id,patient_id,label,offset\na,p,0,-1024\nb,p,0,-1024\nc,p,0,-1024\n"
    source = make(table, np.arange(75).reshape(3, 5, 5) * 50, hu_offset_column="offset")
    assert bags(source)["a"].voxels.min() == -1024


@pytest.mark.parametrize("shape", [(3, 8, 8, 3), (3, 8, 8, 4), (3, 8, 8, 1), (3, 8, 3)])
def test_a_last_axis_of_colour(make: Make, shape: tuple[int, ...]) -> None:
    with pytest.raises(LungtlError, match=r"array images of crops\.npz .* last axis looks like colour"):
        make(images=np.full(shape, -5), hu=bool(shape[-1] == 3)).inventory()


@pytest.mark.parametrize("text", ["NaN", "<NA>", "None"])
def test_labels_that_other_programs_call_missing(make: Make, text: str) -> None:
    assert bags(make(f"id,patient_id,label\na,p1,0.0\nb,p2,TRUE\nc,p3,{text}\n"))["c"].bag_label == -1


# The contract


def test_a_changed_line_or_pixel_changes_one_items_fingerprint(make: Make) -> None:
    def hashes(source: ArraysSource) -> NDArray[np.str_]:
        return np.array([item.fingerprint for item in source.inventory().items])

    before = hashes(make())
    pixels = IMAGES.copy()
    pixels[1, 0, 0] += 1
    assert (hashes(make(images=pixels)) == before).tolist() == [True, False, True]
    assert (hashes(make(TABLE.replace("b,p2,1", "b,p2,0"))) == before).tolist() == [True, False, True]


def test_the_array_is_unpacked_once(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = npz.read_array

    def count(path: Path, key: str) -> NDArray[Any]:
        read.append(key)
        return original(path, key)

    monkeypatch.setattr(npz, "read_array", count)
    npz.read_images.cache_clear()
    source = make()
    assert len(bags(source)) == 3
    assert read == ["images"]


def test_items_are_small_and_picklable(make: Make) -> None:
    source = make(images=np.full((3, 300, 300), -5))
    sent = pickle.dumps((source, source.inventory().items[1]))
    assert len(sent) < 2000
    received, item = pickle.loads(sent)  # noqa: S301
    assert received.load(item).bag_label == 1


def test_the_recipe_has_no_files() -> None:
    recipe = ArraysSource("images.npz", "table.csv", name="mine").recipe()
    assert not {"images.npz", "table.csv", "mine"} & {str(value) for value in recipe.values()}
    assert recipe["kind"] == "arrays"


def test_the_recipe_has_the_range_only_where_it_is_used() -> None:
    assert ArraysSource("i", "t", high=9).recipe() == ArraysSource("i", "t").recipe()
    assert ArraysSource("i", "t", hu=False, high=9).recipe() != ArraysSource("i", "t", hu=False).recipe()


# The real pair


@pytest.mark.real
@needs("lidc_maxslice.npz", "lidc_maxslice.csv")
def test_lidc_maxslice() -> None:
    source = ArraysSource(
        str(folder() / "lidc_maxslice.npz"), str(folder() / "lidc_maxslice.csv"), npz_id_key="nodule_id",
        id_column="nodule_id", label_column="malignant", split_column="split", hu_offset_column="hu_offset",
        diameter_column="equivalent_diameter_mm", pixel_spacing_column="pixel_spacing_mm",
        z_column="image_z_mm",
    )  # fmt: skip
    found = bags(source)
    assert source.inventory().refusals == ()
    assert len(found) == 2226
    assert Counter((bag.split, bag.bag_label) for bag in found.values()) == {
        ("train", 1): 403, ("train", 0): 1056 - 403, ("val", 1): 63, ("val", 0): 143 - 63, (None, -1): 1027,
    }  # fmt: skip
    assert {bag.voxels.shape for bag in found.values()} == {(1, 71, 71)}
    first = found["2"]
    assert (first.patient_id, first.z_mm.tolist()) == ("LIDC-IDRI-0002", [-102.0])
    assert first.voxels[0, 0, :3].tolist() == [135 - 1024, 130 - 1024, 128 - 1024]
    with np.load(folder() / "lidc_maxslice.npz", allow_pickle=False) as archive:
        stored = dict(zip(archive["nodule_id"].tolist(), archive["stored"], strict=True))
    offsets = {-1024: 2055, 0: 171}
    seen = Counter(int(bag.voxels[0, 0, 0]) - int(stored[int(key)][0, 0]) for key, bag in found.items())
    assert seen == offsets


# Readers' ratings


def test_ratings_become_votes(make: Make) -> None:
    table = "id,patient_id,label,r1,r2,r3\na,p1,0,1,2,0\nb,p2,1,5,3,nan\nc,p3,,,0.0,\n"
    found = bags(make(table, rating_columns=["r1", "r2", "r3"]))
    assert [found[name].votes for name in "ab"] == [0, 0.75]
    assert np.isnan(found["c"].votes)
    assert "r1 is 6" in refusals(make(table.replace("5,3", "6,3"), rating_columns=["r1"]))["b"]
    with pytest.raises(LungtlError, match="rating_columns=r9"):
        make(table, rating_columns=["r1", "r9"]).inventory()
