"""Augmentation of network images, by hand-computed cases and scipy."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage
from torch import Tensor

from lungtl.data.bags import BagDataset, collate
from lungtl.data.windows import SlicePreprocessor
from lungtl.models.freezing.full import Full
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.settings.sections import JitterConfig
from lungtl.training.jitter import jitter, moved
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import adamw, cosine, tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import config_of

NONE = JitterConfig(shift=0, rotation=0, zoom=0, brightness=0, contrast=0, noise=0)
WINDOWS = SlicePreprocessor([(-600, 1500), (40, 400)], False, 8, None, (0.5, 0.4), (0.25, 0.2))


def only(**amounts: float) -> JitterConfig:
    return NONE.model_copy(update=amounts)


def picture(size: int = 9) -> Tensor:
    """Smooth, and unlike its mirror images."""
    row, column = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    return torch.sin(3 * row + 1.7 * column * column)[None, None]


def test_whole_pixels_are_shifted_and_the_edge_repeats() -> None:
    row = torch.arange(4.0).expand(1, 1, 4, 4)  # 0 1 2 3 in every row
    assert moved(row, 0, 0.25, 0, 1)[0, 0, 0].tolist() == pytest.approx([0, 0, 1, 2], abs=1e-6)
    assert moved(row, 0.5, 0, 0, 1)[0, 0, 0].tolist() == pytest.approx([0, 1, 2, 3], abs=1e-6)
    assert moved(row.mT, 0.25, 0, 0, 1)[0, 0, :, 0].tolist() == pytest.approx([0, 0, 1, 2], abs=1e-6)


def test_a_quarter_turn_is_that_of_torch() -> None:
    torch.testing.assert_close(moved(picture(), 0, 0, math.pi / 2, 1), picture().rot90(1, (2, 3)), atol=1e-5, rtol=0)


def test_turn_zoom_and_shift_together_are_those_of_scipy() -> None:
    size, down, right, angle, scale = 9, 0.1, -0.05, math.radians(20), 1.2
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    matrix = np.array([[cos, sin], [-sin, cos]])  # rows and columns of the output -> of the input
    centre = np.full(2, (size - 1) / 2)
    offset = centre - matrix @ (centre + np.array([down, right]) * size)
    expected = ndimage.affine_transform(picture()[0, 0].numpy(), matrix, offset, order=1, mode="nearest")
    np.testing.assert_allclose(moved(picture(), down, right, angle, scale)[0, 0], expected, atol=1e-5)


def test_nothing_changes_nothing() -> None:
    images = torch.randn(3, 2, 8, 8)
    assert torch.equal(jitter(images, NONE, 1, WINDOWS), images)


def test_all_slices_of_a_bag_move_alike_and_other_seeds_otherwise() -> None:
    images = picture(8).repeat(3, 2, 1, 1)
    amounts = only(shift=0.2, rotation=30, zoom=0.2)
    one = jitter(images, amounts, 5, WINDOWS)
    assert torch.equal(one, jitter(images, amounts, 5, WINDOWS))
    assert (one == one[:1, :1]).all()
    assert not torch.allclose(one, jitter(images, amounts, 6, WINDOWS), atol=0.01)


def normalised(hu: float) -> Tensor:
    """Network images of constant HU."""
    images: Tensor = WINDOWS(torch.full((4, 1, 8, 8), round(hu), dtype=torch.int16))
    return images


def test_brightness_is_the_same_in_hu_in_every_window() -> None:
    # 1500 HU is the widest window, so 0.01 is at most 15 HU
    found = jitter(normalised(-50), only(brightness=0.01), 3, WINDOWS)
    grey = found * WINDOWS.std + WINDOWS.mean
    shifted = (grey * WINDOWS.width + WINDOWS.low)[0, :, 0, 0] + 50
    assert 1 < abs(float(shifted[0])) <= 15
    torch.testing.assert_close(shifted[0], shifted[1], atol=1e-2, rtol=0)


def test_noise_has_its_amount_and_differs_between_slices() -> None:
    images = WINDOWS(torch.full((200, 1, 8, 8), -50, dtype=torch.int16))
    found = jitter(images, only(noise=0.02), 3, WINDOWS)
    hu = (found * WINDOWS.std + WINDOWS.mean) * WINDOWS.width + WINDOWS.low
    spread = hu.std(dim=(0, 2, 3))
    draws = 2 * torch.rand(7, generator=torch.Generator().manual_seed(3), dtype=torch.float64) - 1
    assert spread.tolist() == pytest.approx([30 * abs(float(draws[6]))] * 2, rel=0.05)
    assert not torch.allclose(hu[0], hu[1], atol=1)


def test_contrast_keeps_the_windows_centre_and_clips() -> None:
    centre = jitter(normalised(-600), only(contrast=0.5), 1, WINDOWS)[:, 0]
    torch.testing.assert_close(centre, normalised(-600)[:, 0])
    far = jitter(normalised(3000), only(contrast=0.5, brightness=0.5), 2, WINDOWS)
    assert float((far * WINDOWS.std + WINDOWS.mean).max()) <= 1 + 1e-6


def test_a_training_step_sees_jittered_images_drawn_from_the_seed_and_validation_does_not(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [3, 2])
    amounts = only(shift=0.3, brightness=0.1)
    module = BagModule(tiny_classifier(), Full(), BagAndSliceLoss(), adamw(), cosine(), 4, jitter=amounts).eval()

    def logits(jittered: bool, epoch: int = 0) -> Tensor:
        bags = BagDataset(store, ["b00", "b01"], {}, jitter=jittered, key=(7, epoch))
        with torch.no_grad():
            output: Tensor = module(collate([bags[0], bags[1]])).bag_logits
        return output

    plain = logits(False)
    assert torch.equal(logits(True), logits(True))
    assert not torch.allclose(logits(True), plain, atol=1e-4)
    assert not torch.allclose(logits(True), logits(True, epoch=1), atol=1e-4)
    module.jitter = NONE
    torch.testing.assert_close(logits(True), plain)


def test_views_do_not_depend_on_whether_images_are_jittered(tmp_path: Path) -> None:
    store = toy_store(tmp_path, [9] * 6)
    ids = list(store.bags["bag_id"])
    plain, jittered = (BagDataset(store, ids, {}, augment=True, draw=3, jitter=flag) for flag in (False, True))
    for index in range(6):
        assert plain[index].view == jittered[index].view
        assert torch.equal(plain[index].positions, jittered[index].positions)
    assert len({jittered[index].seed for index in range(6)}) == 6
    assert plain[0].seed is None


def with_augment(config: TrainConfig, augment: str, views: int = 1, strategy: str = "frozen.Frozen") -> TrainConfig:
    document = config.model_dump()
    document["image"]["augment"], document["cache"]["views"] = augment, views
    document["freezing"] = {"_target_": f"lungtl.models.freezing.{strategy}"}
    return TrainConfig.model_validate(document)


def test_ct_requires_a_backbone_that_trains(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    with pytest.raises(UsageError, match=r"image.augment=ct .*frozen.* cache.views=8") as error:
        with_augment(config, "ct")
    assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match=r"cache.views=8: .*image.augment=dihedral"):
        with_augment(config, "ct", views=8, strategy="full.Full")
    assert with_augment(config, "ct", strategy="full.Full").image.augment == "ct"
