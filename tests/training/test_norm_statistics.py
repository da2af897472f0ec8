from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from lungtl.training.norm_statistics import pool_statistics
from tests.together import together


def network(own: int) -> nn.Sequential:
    """A frozen, a trained and a half frozen batch norm, whose statistics process `own` has at own + 0.1."""
    frozen, _, half = layers = [nn.BatchNorm1d(1) for _ in range(3)]
    frozen.requires_grad_(False)
    half.bias.requires_grad_(False)
    for layer in layers:
        layer.load_state_dict(
            {"running_mean": torch.tensor([own + 0.1]), "running_var": torch.tensor([2 * (own + 0.1)])}, strict=False
        )
    return nn.Sequential(*layers)


def test_what_trains_has_the_mean_and_what_is_frozen_its_own_statistics(tmp_path: Path) -> None:
    def pooled(own: int) -> dict[str, Tensor]:
        layers = network(own)
        pool_statistics(layers)
        return {key: value for key, value in layers.state_dict().items() if "running" in key}

    for own, found in enumerate(together(tmp_path, pooled, 3)):
        own_mean = torch.tensor([own + 0.1])
        for key in ("0", "2"):  # to the last bit: a third of three equal numbers may be another
            assert torch.equal(found[f"{key}.running_mean"], own_mean)
            assert torch.equal(found[f"{key}.running_var"], 2 * own_mean)
        torch.testing.assert_close(found["1.running_mean"], torch.tensor([1.1]))
        torch.testing.assert_close(found["1.running_var"], torch.tensor([2.2]))


def test_one_process_has_all_statistics() -> None:
    layers = network(0)
    before = {key: value.clone() for key, value in layers.state_dict().items()}
    pool_statistics(layers)
    assert all(torch.equal(before[key], value) for key, value in layers.state_dict().items())
