"""Build a network that a stranger's file describes without exceeding the size of its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import safe_open
from torch import Tensor
from torch.nn.modules import module

SPARE = 2**27
"""Values that a network may have besides those of its file: layers that are built, then removed (VGG's)."""


@contextmanager
def no_larger_than(file: Path) -> Iterator[None]:
    """Raise ValueError as soon as a network that is being built has far more values than its file.

    A config of a few bytes may name a network that does not fit into memory.
    """
    with safe_open(file, "pt") as weights:
        names = list(weights.keys())
        limit = 2 * sum(math.prod(weights.get_slice(name).get_shape()) for name in names) + SPARE
    built = 0

    def count(owner: object, name: str, value: Tensor | None) -> None:
        nonlocal built
        built += 0 if value is None else value.numel()
        if built > limit:
            raise ValueError(f"the config describes a network that is much larger than {file.name}")

    hooks = [
        module.register_module_parameter_registration_hook(count),
        module.register_module_buffer_registration_hook(count),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
