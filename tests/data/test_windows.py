from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lungtl.data.windows import SlicePreprocessor, resolve_windows
from lungtl.settings.errors import LungtlError
from tests.settings.test_image import image

LUNG, MEDIASTINAL, WIDE = (-600.0, 1500.0), (40.0, 400.0), (0.0, 2000.0)
AS_IT_IS = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def frames(*values: int, channels: int = 1) -> torch.Tensor:
    """One picture, int16 [1, channels, n, n], a value a column."""
    n = len(values)
    return torch.tensor(values, dtype=torch.int16).expand(1, channels, n, n).contiguous()


def test_values_at_the_edges_of_the_windows() -> None:
    preprocess = SlicePreprocessor([LUNG, MEDIASTINAL, WIDE], False, 8, None, **AS_IT_IS)
    images = preprocess(frames(-2000, -1350, -1000, -600, -160, 40, 150, 3000))[0, :, 0]
    # lung -1350..150, mediastinal -160..240, wide -1000..1000
    expected = [
        [0, 0, 350 / 1500, 0.5, 1190 / 1500, 1390 / 1500, 1, 1],
        [0, 0, 0, 0, 0, 0.5, 310 / 400, 1],
        [0, 0, 0, 0.2, 0.42, 0.52, 0.575, 1],
    ]
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)


def test_one_window_fills_all_channels() -> None:
    images = SlicePreprocessor([LUNG], False, 2, None, **AS_IT_IS)(frames(-600, 150))
    assert images.shape == (1, 3, 2, 2)
    np.testing.assert_allclose(images[0, :, 0].numpy(), [[0.5, 1]] * 3)


def test_neighbouring_slices_keep_their_order_and_share_the_window() -> None:
    three = torch.tensor([-1350, -600, 150], dtype=torch.int16).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    images = SlicePreprocessor([LUNG], True, 2, None, **AS_IT_IS)(three)
    np.testing.assert_allclose(images[0, :, 0, 0].numpy(), [0, 0.5, 1])


def test_mean_and_std_are_those_of_each_channel() -> None:
    preprocess = SlicePreprocessor([LUNG], False, 1, None, mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    np.testing.assert_allclose(preprocess(frames(150))[0, :, 0, 0].numpy(), [1, 3, 0.5])


@pytest.mark.parametrize(("size", "first"), [(8, 2), (4, 4), (7, 2)])
def test_the_crop_is_the_centre(size: int, first: int) -> None:
    values = torch.arange(12, dtype=torch.int16).expand(12, 12)
    crop = SlicePreprocessor([(500, 1000)], False, size, size, **AS_IT_IS)(values[None, None])
    assert (crop[0, 0, 0] * 1000).round().tolist() == list(range(first, first + size))
    assert torch.equal(crop[0, 0, 0], crop[0, 0, -1])
    turned = SlicePreprocessor([(500, 1000)], False, size, size, **AS_IT_IS)(values.T[None, None])
    assert torch.equal(turned, crop.transpose(-2, -1))


def test_a_crop_larger_than_the_slices_is_refused() -> None:
    with pytest.raises(LungtlError, match=r"image\.crop=9 is larger than the slices \(8 x 8\)"):
        SlicePreprocessor([LUNG], False, 8, 9, **AS_IT_IS)(frames(*range(8)))


def test_shrinking_averages_without_aliasing() -> None:
    # the stripes are white at the four new pixels: without a filter all would be white
    stripes = frames(*[-1350, 150, 150, -1350] * 4)
    images = SlicePreprocessor([LUNG], False, 4, None, **AS_IT_IS)(stripes)
    np.testing.assert_allclose(images.numpy(), 0.5, atol=0.1)


@pytest.mark.parametrize(("height", "width"), [(24, 24), (40, 20), (20, 40), (50, 60)])
def test_enlarging_is_as_if_antialiased(height: int, width: int) -> None:
    random = torch.Generator().manual_seed(0)
    slices = torch.randint(-1350, 150, (2, 1, height, width), dtype=torch.int16, generator=random)
    resized = F.interpolate((slices.float() + 1350) / 1500, (32, 32), mode="bilinear", antialias=True)
    images = SlicePreprocessor([LUNG], False, 32, None, **AS_IT_IS)(slices)
    torch.testing.assert_close(images, resized.expand(2, 3, 32, 32), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [32, 64, 47])
def test_enlarging_is_bilinear(size: int) -> None:
    slices = torch.randint(-1350, 150, (2, 1, 30, 21), dtype=torch.int16, generator=torch.Generator().manual_seed(0))
    expected = F.interpolate((slices.float() + 1350) / 1500, (size, size), mode="bilinear", align_corners=False)
    images = SlicePreprocessor([LUNG], False, size, None, **AS_IT_IS)(slices)
    torch.testing.assert_close(images, expected.expand(2, 3, size, size), atol=1e-6, rtol=0)


def test_the_input_is_not_changed() -> None:
    slices = frames(-1350, -600, 0, 150)
    before = slices.clone()
    SlicePreprocessor([LUNG], False, 4, None, (0.5,) * 3, (0.5,) * 3)(slices)
    assert torch.equal(slices, before)


def test_windows_are_applied_before_resizing() -> None:
    # half air, half metal: the mean of the clipped values is 1/2; that of the HU would be above the window
    images = SlicePreprocessor([LUNG], False, 1, None, **AS_IT_IS)(frames(-1350, 3000))
    np.testing.assert_allclose(images.numpy(), 0.5, atol=1e-6)


def test_single_slices_equal_a_batch() -> None:
    random = torch.Generator().manual_seed(0)
    batch = torch.randint(-1400, 800, (5, 1, 40, 40), dtype=torch.int16, generator=random)
    preprocess = SlicePreprocessor([LUNG, MEDIASTINAL, WIDE], False, 32, 36, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
    alone = torch.cat([preprocess(batch[i : i + 1]) for i in range(5)])
    torch.testing.assert_close(preprocess(batch), alone, atol=1e-6, rtol=0)


def test_extreme_int16_values_do_not_wrap_around() -> None:
    images = SlicePreprocessor([LUNG], False, 2, None, **AS_IT_IS)(frames(-32768, 32767))
    assert images[0, 0, 0].tolist() == [0, 1]


def test_automatic_windows() -> None:
    assert resolve_windows("auto", False, None) == [LUNG, MEDIASTINAL, WIDE]
    assert resolve_windows("auto", True, None) == [LUNG]
    for neighbours in (False, True):
        assert resolve_windows("auto", neighbours, (0, 255)) == [(127.5, 255.0)]


@pytest.mark.parametrize("channels", [1, 4])
def test_another_number_of_channels(channels: int) -> None:
    windows = resolve_windows("auto", False, None, channels)
    assert windows == [LUNG]
    images = SlicePreprocessor(windows, False, 2, None, (0,) * channels, (1,) * channels)(frames(-600, 150))
    assert images[0, :, 0].tolist() == [[0.5, 1]] * channels


def test_one_window_per_channel() -> None:
    preprocess = SlicePreprocessor([LUNG, WIDE], False, 2, None, (0, 0), (1, 1))
    assert preprocess(frames(-600, 150))[0, :, 0].tolist() == [[0.5, 1], [pytest.approx(0.2), pytest.approx(0.575)]]


def test_grey_values_span_their_range() -> None:
    windows = resolve_windows("auto", False, (0, 255))
    images = SlicePreprocessor(windows, False, 2, None, **AS_IT_IS)(frames(0, 255))
    assert images[0, 0, 0].tolist() == [0, 1]


def test_windows_by_name_and_by_numbers() -> None:
    assert resolve_windows(["wide", (100.0, 50.0), "lung"], False, None) == [WIDE, (100, 50), LUNG]
    assert resolve_windows([(100.0, 50.0)], False, (0, 255)) == [(100, 50)]


def test_windows_of_hu_are_refused_where_voxels_are_not_hu() -> None:
    with pytest.raises(LungtlError, match=r"image\.windows=\['lung'\] are in HU.*\(0, 255\).*image\.windows=auto"):
        resolve_windows(["lung"], False, (0, 255))


@pytest.mark.parametrize(("size", "expected"), [("auto", 160), (96, 96)])
def test_the_config_resolves_to_what_describe_says(size: str | int, expected: int) -> None:
    config = image(size=size, crop=64)
    described = SlicePreprocessor.from_config(config, None, 160, (0.5, 0.25, 0.125), (1, 1, 1)).describe()
    assert described == {
        "windows": [[-600, 1500], [40, 400], [0, 2000]], "neighbours": False, "size": expected, "crop": 64,
        "mean": [0.5, 0.25, 0.125], "std": [1, 1, 1],
    }  # fmt: skip
    assert SlicePreprocessor(**described).describe() == described


def test_describe_contains_every_setting() -> None:
    base: dict[str, Any] = {"windows": [LUNG], "neighbours": False, "size": 32, "crop": None, **AS_IT_IS}
    changes: list[dict[str, Any]] = [
        {}, {"windows": [WIDE]}, {"neighbours": True}, {"size": 64}, {"crop": 16},
        {"crop_mm": [16.0]}, {"crop_mm": [16.0, 32.0]}, {"mean": (0.1, 0, 0)},
        {"std": (1, 1, 2.0)},
    ]  # fmt: skip
    described = [SlicePreprocessor(**(base | change)).describe() for change in changes]
    assert all(a != b for a, b in itertools.combinations(described, 2))
