from __future__ import annotations

import logging
import os
import resource
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import multiprocessing

from lungtl.models.inference import MOST_BYTES
from lungtl.settings.errors import UsageError
from lungtl.training.devices import WORKERS_PER_GPU, available_device, device_count, loader_processes, pick_device
from tests.training.test_fit import config_of


def test_devices_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [pick_device(name).type for name in ("cpu", "gpu", "mps")] == ["cpu", "cuda", "mps"]
    for cuda, mps, expected in ((True, True, "cuda"), (False, True, "mps"), (False, False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda answer=cuda: answer)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda answer=mps: answer)
        assert pick_device("auto").type == expected


@pytest.mark.parametrize(("accelerator", "backend"), [("gpu", torch.cuda), ("mps", torch.backends.mps)])
def test_an_absent_device_is_one_line(monkeypatch: pytest.MonkeyPatch, accelerator: str, backend: Any) -> None:
    monkeypatch.setattr(backend, "is_available", lambda: True)
    assert available_device(accelerator) == pick_device(accelerator)
    monkeypatch.setattr(backend, "is_available", lambda: False)
    with pytest.raises(UsageError, match=f"accelerator={accelerator}: .*; use auto or cpu"):
        available_device(accelerator)


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "strategy"),
    [
        (1024, 4096, None, "file_system"),
        (1024, 8192, 512 + 2 * 4 * 256 * 2, None),  # two batches ready in each of 4 processes, two tensors a case
        (1024, 1024, None, "file_system"),
        (8192, 8192, None, None),
        (1024, resource.RLIM_INFINITY, 512 + 2 * 4 * 256 * 2, None),
    ],
)
def test_loader_processes_do_not_run_out_of_open_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, strategy: str | None
) -> None:
    limits, strategies = list[tuple[int, int]](), list[str]()
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, both: limits.append(both))
    monkeypatch.setattr(multiprocessing, "set_sharing_strategy", strategies.append)
    loader_processes(config_of(tmp_path, workers=4, batch_size=256).trainer, cached=False)
    assert limits == ([] if raised is None else [(raised, hard)])
    assert strategies == ([] if strategy is None else [strategy])


def test_devices_are_counted_where_the_run_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    asked = {("cpu", 2): 2, ("cpu", "auto"): 1, ("gpu", 3): 3, ("gpu", "auto"): 4}
    for (accelerator, devices), expected in asked.items():
        config = config_of(tmp_path, accelerator=accelerator, devices=devices).trainer
        assert device_count(config) == expected


GPU: dict[str, Any] = {"accelerator": "gpu", "workers": "auto"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """16 cores and plenty of shared memory."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**40))
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "fork")


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("accelerator", "cached", "expected"),
    [("cpu", False, 0), ("cpu", True, 0), ("mps", False, 0), ("gpu", False, WORKERS_PER_GPU), ("gpu", True, 0)],
)
def test_only_a_gpu_on_voxels_has_workers(tmp_path: Path, accelerator: str, cached: bool, expected: int) -> None:
    trainer = config_of(tmp_path, accelerator=accelerator, workers="auto").trainer
    assert loader_processes(trainer, cached) == expected
    assert loader_processes(trainer.model_copy(update={"workers": 7}), cached) == 7


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(("cores", "devices", "expected"), [(1, 1, 0), (3, 1, 2), (16, 4, 3), (16, 8, 1), (4, 8, 0)])
def test_the_cores_are_shared_by_the_devices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cores: int, devices: int, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)), raising=False)
    assert loader_processes(config_of(tmp_path, **GPU, devices=devices).trainer, cached=False) == expected


@pytest.mark.usefixtures("machine")
def test_no_workers_if_processes_are_spawned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_start_method", lambda: "spawn")
    assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == 0


@pytest.mark.usefixtures("machine")
def test_no_workers_if_shared_memory_is_small(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("lungtl.training.devices.SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2**26))  # a container's default
    with caplog.at_level(logging.WARNING):
        assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == 0
    assert all(fact in caplog.text for fact in ("0.067 GB free", "2.1 GB", "--shm-size", "trainer.workers=1"))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=2 * WORKERS_PER_GPU * MOST_BYTES))
    assert loader_processes(config_of(tmp_path, **GPU).trainer, cached=False) == WORKERS_PER_GPU
