from __future__ import annotations

import torch

from lungtl.data.augment import random_dihedral


def test_the_eight_views_and_no_others_are_drawn_about_equally_often() -> None:
    torch.manual_seed(0)
    picture = torch.arange(9).view(1, 1, 3, 3)
    views = {
        tuple(view.flatten().tolist())
        for turns in range(4)
        for turned in [torch.rot90(picture, turns, (-2, -1))]
        for view in (turned, turned.flip(-1))
    }
    assert len(views) == 8
    drawn = [tuple(random_dihedral(picture).flatten().tolist()) for _ in range(800)]
    counts = {view: drawn.count(view) for view in views}
    assert sum(counts.values()) == 800
    assert all(60 <= count <= 140 for count in counts.values())  # 100 expected, standard deviation 9.4


def test_all_slices_and_channels_of_a_bag_turn_together() -> None:
    torch.manual_seed(1)
    bag = torch.arange(9, dtype=torch.int16).view(1, 1, 3, 3).repeat(5, 3, 1, 1)
    for _ in range(20):
        view = random_dihedral(bag)
        assert view.dtype == torch.int16
        assert (view == view[:1, :1]).all()


def test_views_follow_from_the_seed() -> None:
    picture = torch.arange(9).view(1, 1, 3, 3)

    def draw() -> list[torch.Tensor]:
        torch.manual_seed(7)
        return [random_dihedral(picture) for _ in range(30)]

    assert all(torch.equal(a, b) for a, b in zip(draw(), draw(), strict=True))
