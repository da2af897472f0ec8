from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lungtl.training.devices import device_count, pick_device
from tests.training.test_fit import config_of


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [pick_device(name).type for name in ("cpu", "gpu", "mps")] == ["cpu", "cuda", "mps"]
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=cuda: answer)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda answer=mps: answer)
        assert pick_device("auto").type == expected


def test_devices_are_counted_where_the_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    asked = {("cpu", 2): 2, ("cpu", "auto"): 1, ("gpu", 3): 3, ("gpu", "auto"): 4}
    for (accelerator, devices), expected in asked.items():
        config = config_of(tmp_path, accelerator=accelerator, devices=devices).trainer
        assert device_count(config) == expected
