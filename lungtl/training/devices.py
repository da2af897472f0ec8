"""What `trainer.accelerator`, `trainer.devices` and `trainer.precision` mean on this machine."""

from __future__ import annotations

import torch

from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainerConfig


def pick_device(accelerator: str) -> torch.device:
    """The device that auto, cpu, gpu or mps means here."""
    if accelerator == "auto":
        accelerator = "gpu" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    return torch.device({"gpu": "cuda"}.get(accelerator, accelerator))


def device_name(device: torch.device) -> str:
    """What a run's record calls it: a GPU's name, otherwise its type, e.g. cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def device_count(config: TrainerConfig) -> int:
    """How many devices `trainer.devices` means: auto is every GPU, or one CPU."""
    if config.devices != "auto":
        return config.devices
    return torch.cuda.device_count() if pick_device(config.accelerator).type == "cuda" else 1


def check_precision(config: TrainerConfig) -> torch.device:
    """The device that trains; raises UsageError where it has no such precision."""
    device = pick_device(config.accelerator)
    if config.precision == "16-mixed" and device.type == "cpu":  # Lightning would take bfloat16 instead
        raise UsageError(
            "trainer.precision=16-mixed needs a GPU, and this run trains on the CPU; give trainer.precision=bf16-mixed "
            "or 32-true"
        )
    return device
