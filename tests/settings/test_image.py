"""`image.size`, `image.crop_mm` and `image.pixel_mm`: two of them decide the third."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from lungtl.settings import checks
from lungtl.settings.errors import UsageError
from lungtl.settings.folders import conf_dir
from lungtl.settings.schema import TrainConfig
from lungtl.settings.sections import ImageConfig


def image(**changes: Any) -> ImageConfig:
    shipped = yaml.safe_load((conf_dir() / "train.yaml").read_text())["image"]
    return ImageConfig.model_validate({**shipped, **changes})


@pytest.mark.parametrize(
    ("changes", "size", "crop_mm"),
    [
        ({}, 224, []),
        ({"size": 96, "crop": 48}, 96, []),
        ({"crop_mm": 16}, 224, [16]),
        ({"crop_mm": [16, 32.5], "size": 96}, 96, [16, 32.5]),
        ({"crop_mm": 24, "pixel_mm": 0.3}, 80, [24]),
        ({"pixel_mm": 0.5, "size": 96}, 96, [48]),
        ({"pixel_mm": 1.25}, 224, [280]),
    ],
)
def test_the_field_of_view(changes: dict[str, Any], size: int, crop_mm: list[float]) -> None:
    assert image(**changes).resolve_size(224) == (size, crop_mm)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("image.crop_mm=-3", "image.crop_mm=-3: input should be greater than 0"),
        ("image.crop_mm=[16,0]", "image.crop_mm=0: input should be greater than 0"),
        ("image.pixel_mm=inf", "image.pixel_mm=inf: input should be a finite number"),
        ("image.crop=48 image.crop_mm=16", "image.crop=48 is in pixels, image.crop_mm in mm; give one"),
        ("image.crop=48 image.pixel_mm=1", "image.crop=48 is in pixels, image.pixel_mm in mm; give one"),
        ("image.size=32 image.crop_mm=16 image.pixel_mm=0.5", "two of them decide the third; omit one"),
        ("image.crop_mm=16 image.pixel_mm=0.15", "= 106.667 pixels; expected a whole number from 32 to 1024"),
        ("image.crop_mm=16 image.pixel_mm=0.01", "= 1600 pixels; expected a whole number from 32 to 1024"),
        ("image.crop_mm=[16,32] image.pixel_mm=0.5", "requires one image.crop_mm; for several give image.size"),
    ],
)
def test_what_cannot_be_meant_is_refused_in_one_line(overrides: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        checks.check("train", TrainConfig, overrides.split(), multirun=False)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
