"""Tables, their lines and arrays that cannot be used."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lungtl.settings.errors import LungtlError
from tests.sources.test_arrays import IMAGES, Make, bags, refusals, writer


@pytest.fixture
def make(tmp_path: Path) -> Make:
    return writer(tmp_path)


# Lines that are refused


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("b,p2,2,train,0,5", "label is 2, expected 0, 1 or empty"),
        ("b,p2,0.5,train,0,5", "label is 0.5"),
        ("b,p2,maybe,train,0,5", "label is maybe"),
        ("b,,1,train,0,5", "patient_id is empty"),
        ("b,p2,1,training,0,5", "split is training, expected train, val or test"),
        ("b,p2,1,train,,5", "offset is empty, expected a number"),
        ("b,p2,1,train,inf,5", "offset is inf"),
        ("b,p2,1,train,x,5", "offset is x"),
        ("b,p2,1,train,0,-5", "mm is -5"),
        ("b,p2,1,train,0,wide", "mm is wide"),
    ],
)
def test_a_bad_line_is_refused_alone(make: Make, line: str, reason: str) -> None:
    table = f"id,patient_id,label,split,offset,mm\na,p1,0,train,0,5\n{line}\nc,p3,1.0,val,0,\n"
    source = make(table, split_column="split", hu_offset_column="offset", diameter_column="mm")
    ((refused, why),) = refusals(source).items()
    assert refused == "b"
    assert reason in why
    found = bags(source)
    assert list(found) == ["a", "c"]
    assert (found["c"].voxels == IMAGES[2]).all()  # the refused line keeps its image


# Tables and arrays that cannot be used


def test_unlabelled_bags_may_be_in_any_split(make: Make) -> None:
    table = "id,patient_id,label,split\na,p1,0,train\nb,p1,,val\nc,p1,,pool\n"
    assert [bag.split for bag in bags(make(table, split_column="split")).values()] == ["train", "val", None]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            "id,patient_id,label\na,p,0\na,p,1\nc,p,1\n",
            r"column id of crops\.csv has 1 repeated ids: a;",
        ),
        ("id,patient_id,label\na,p,0\n,p,1\nc,p,1\n", r"column id of crops\.csv has 1 empty ids"),
        ("id,patient_id,label\na,p,0\n", r"crops\.csv has 1 lines, but crops\.npz has 3 images"),
        (
            "id,patient_id,labl\na,p,0\n",
            r"dataset\.label_column=label: .*no such column; did you mean labl\?",
        ),
        ("id,patient_id,label,id\na,p,0,b\n", r"dataset\.id_column=id: .*this column twice"),
        ("id,patient_id,label\na,p\n", r"crops\.csv line 2 has 2 values, the header has 3 columns"),
        ("id,patient_id,label\na,p,0,1\n", r"crops\.csv line 2 has 4 values, the header has 3"),
        ("", r"dataset\.id_column=id: crops\.csv has no such column"),
        ('id,patient_id,label\n"a,p,0\n', r"crops\.csv is not a readable CSV file"),
    ],
)
def test_a_table_that_cannot_be_used(make: Make, table: str, message: str) -> None:
    with pytest.raises(LungtlError, match=message) as caught:
        make(table).inventory()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["a", "b", "x"], r"^1 ids are not in crops\.npz: c; compare dataset\.id_column=id with"),
        (["a", "b", "c", "d"], r"array ids of crops\.npz has shape \(4,\), expected \(3,\)"),
        (["a", "b", "b"], r"array ids of crops\.npz has 1 repeated ids: b"),
    ],
)
def test_ids_that_do_not_match(make: Make, ids: list[str], message: str) -> None:
    with pytest.raises(LungtlError, match=message):
        make(more={"ids": ids}, npz_id_key="ids").inventory()


def test_images_without_a_line(make: Make) -> None:
    table = "id,patient_id,label\na,p,0\n"
    with pytest.raises(LungtlError, match=r"^2 ids are not in crops\.csv: b, c;"):
        make(table, more={"ids": ["a", "b", "c"]}, npz_id_key="ids").inventory()


def test_the_array_of_images_must_be_unambiguous(make: Make) -> None:
    more = {"masks": IMAGES > 5, "others": IMAGES, "note": np.array("text")}
    with pytest.raises(LungtlError, match=r"contains images int16 \(3, 4, 5\), masks bool .*set dataset\.images_key"):
        make(more=more).inventory()
    assert len(bags(make(more=more, images_key="others"))) == 3
    with pytest.raises(LungtlError, match="named masks: set"):
        make(more=more, images_key="masks").inventory()


def test_a_missing_id_array(make: Make) -> None:
    with pytest.raises(LungtlError, match=r"crops\.npz has no array idss; did you mean ids\?"):
        make(more={"ids": ["a", "b", "c"]}, npz_id_key="idss").inventory()


def test_python_objects_are_never_unpickled(make: Make) -> None:
    source = make(more={"ids": np.array(["a", None, "c"], dtype=object)}, npz_id_key="ids")
    with pytest.raises(LungtlError, match=r"array ids of .* cannot be read \(.*allow_pickle=False"):
        source.inventory()


def test_images_without_pixels(make: Make) -> None:
    with pytest.raises(LungtlError, match=r"shape \(3, 0, 5\), which has no pixels"):
        make(images=np.zeros((3, 0, 5))).inventory()


def test_one_position_cannot_place_several_slices(make: Make) -> None:
    table = "id,patient_id,label,z\na,p,0,1\nb,p,0,2\nc,p,0,3\n"
    with pytest.raises(LungtlError, match=r"dataset\.z_column=z .*2 slices"):
        make(table, np.full((3, 2, 5, 5), -5), z_column="z").inventory()
    assert bags(make(table, np.full((3, 1, 5, 5), -5), z_column="z"))["b"].z_mm.tolist() == [2.0]


@pytest.mark.parametrize("option", ["images", "table"])
def test_a_missing_file(make: Make, option: str) -> None:
    source = make()
    Path(getattr(source, option)).unlink()
    for step in (source.listing, source.inventory):
        with pytest.raises(LungtlError, match=rf"^dataset\.{option}=.* is not a file; set dataset\.{option}=FILE$"):
            step()


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 torn"])
def test_a_file_that_is_no_npz(make: Make, content: bytes) -> None:
    source = make()
    Path(source.images).write_bytes(content)
    with pytest.raises(LungtlError, match=r"crops\.npz is not a readable \.npz .*; write it with numpy\.savez"):
        source.inventory()
