from __future__ import annotations

import torch

from lungtl.data.bags import VIEWS, dihedral, random_view

PICTURE = torch.tensor([[0, 1], [2, 3]])[None, None]
# by hand: quarter turns against the clock, then the same mirrored left to right
EXPECTED = [
    [0, 1, 2, 3], [1, 3, 0, 2], [3, 2, 1, 0], [2, 0, 3, 1],
    [1, 0, 3, 2], [3, 1, 2, 0], [2, 3, 0, 1], [0, 2, 1, 3],
]  # fmt: skip


def test_the_eight_views() -> None:
    assert [dihedral(PICTURE, view).flatten().tolist() for view in range(VIEWS)] == EXPECTED


def test_view_0_is_the_bag_itself() -> None:
    bag = torch.arange(12, dtype=torch.int16).view(1, 1, 3, 4)
    assert dihedral(bag, 0) is bag
    assert dihedral(bag, 1).shape == (1, 1, 4, 3)


def test_views_are_drawn_about_equally_often_and_no_others() -> None:
    generator = torch.Generator().manual_seed(0)
    drawn = [random_view(generator) for _ in range(800)]
    assert set(drawn) == set(range(8))
    assert all(60 <= drawn.count(view) <= 140 for view in range(8))  # 100 expected, standard deviation 9.4


def test_all_slices_and_channels_of_a_bag_turn_together() -> None:
    bag = torch.arange(9, dtype=torch.int16).view(1, 1, 3, 3).repeat(5, 3, 1, 1)
    for number in range(VIEWS):
        view = dihedral(bag, number)
        assert view.dtype == torch.int16
        assert (view == view[:1, :1]).all()


def test_draws_follow_from_the_seed() -> None:
    def draw() -> list[int]:
        generator = torch.Generator().manual_seed(7)
        return [random_view(generator) for _ in range(30)]

    assert draw() == draw()
