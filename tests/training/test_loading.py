from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from torch import multiprocessing

from lungtl.models.inference import MOST_BYTES
from lungtl.training import loading
from lungtl.training.loading import PER_GPU, loader_processes
from tests.training.test_fit import config_of

GPU: dict[str, Any] = {"accelerator": "gpu", "workers": "auto"}


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 cores and plenty of shared memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")


@pytest.mark.parametrize(
    ("accelerator", "cached", "expected"),
    [("cpu", False, 0), ("cpu", True, 0), ("mps", False, 0), ("gpu", False, PER_GPU), ("gpu", True, 0)],
)
def test_only_a_gpu_that_waits_for_voxels_gets_some(
    tmp_path: Path, accelerator: str, cached: bool, expected: int
) -> None:
    trainer = config_of(tmp_path, accelerator=accelerator, workers="auto").trainer
    assert loader_processes(trainer, cached) == expected
    assert loader_processes(trainer.model_copy(update={"workers": 7}), cached) == 7


@pytest.mark.parametrize(("cores", "devices", "expected"), [(1, 1, 0), (3, 1, 2), (16, 4, 3), (16, 8, 1), (4, 8, 0)])
def test_the_cores_are_shared_by_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, devices: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert loader_processes(config_of(tmp_path, **GPU, devices=devices).trainer, cached=False) == expected


def test_processes_that_import_torch_anew_are_not_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == 0


def test_none_where_shared_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(loading, "SHARED", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))  # a container's default
    with caplog.at_level(logging.WARNING):
        assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == 0
    assert "has 0.067 GB free and 4 processes may need 2.1; a container gets more by --shm-size" in caplog.text
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * PER_GPU * MOST_BYTES))
    assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == PER_GPU
