from __future__ import annotations

import math

import pytest
import torch

from lungtl.models.folding import is_close


@pytest.mark.parametrize(
    ("found", "expected", "scale", "answer"),
    [
        ([1.0, 100.0], [1.0, 100.009], 0, True),
        ([1.0, 100.0], [1.0, 100.011], 0, False),
        ([0.0], [1e-5], 0, False),
        ([0.0], [1e-5], 20, True),  # what is left of numbers around 20 that cancelled
        ([math.nan], [math.nan], 0, False),
        ([1.0], [math.inf], 0, False),
        ([math.inf], [math.inf], 0, False),
        ([0.0], [0.0], 0, True),
    ],
)
def test_rounding_is_relative_to_the_largest_value(
    found: list[float], expected: list[float], scale: float, answer: bool
) -> None:
    assert is_close(torch.tensor(found), torch.tensor(expected), scale=scale) is answer
