from __future__ import annotations

import pytest
import torch

from lungtl.models.module_state import evaluation_mode


def test_modes_are_restored_also_after_an_error() -> None:
    norm = torch.nn.BatchNorm1d(2)
    network = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(norm).eval())
    norm.train()

    def fail() -> None:
        assert not any(part.training for part in network.modules())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), evaluation_mode(network):
        fail()
    assert [part.training for part in network.modules()] == [True, True, False, True]
