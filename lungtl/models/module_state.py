"""Context managers that change a module temporarily."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module into evaluation mode; afterwards every submodule has its previous mode."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes.items():
            part.training = mode


@contextmanager
def replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    """Replace a module's forward pass; its parameters and hooks stay."""
    before = vars(module).get("forward")  # of an outer replacement
    module.forward = forward
    try:
        yield
    finally:
        if before is None:
            del module.forward
        else:
            module.forward = before


@contextmanager
def all_require_grad(module: nn.Module, value: bool) -> Iterator[None]:
    """Set `requires_grad` of all parameters."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(value)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
