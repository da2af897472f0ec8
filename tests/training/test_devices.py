from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lungtl.training.devices import FEEDING, device_count, loader_processes, pick_device
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


def test_loader_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    asked = {("cpu", False): 0, ("cpu", True): 0, ("gpu", False): FEEDING, ("gpu", True): 0}
    for (accelerator, cached), expected in asked.items():
        trainer = config_of(tmp_path, accelerator=accelerator, workers="auto").trainer
        assert loader_processes(trainer, cached) == expected
        assert loader_processes(trainer.model_copy(update={"workers": 7}), cached) == 7
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    assert loader_processes(config_of(tmp_path, accelerator="gpu", workers="auto").trainer, cached=False) == 1
