"""Fold batch norms into the preceding convolutions for inference: same results, fewer passes over memory."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lungtl.models.module_state import replaced_forward

log = logging.getLogger(__name__)
# exact types: a subclass may compute something else
CONVOLUTIONS, NORMS = (nn.Conv2d, Conv2dSame), (nn.BatchNorm2d, BatchNormAct2d)


@contextmanager
def folded(network: nn.Module, compute: Callable[[Tensor], Tensor], images: Tensor) -> Iterator[None]:
    """Temporarily fold a network's batch norms into the convolutions whose outputs they read.

    One forward pass finds the pairs. If the folded network computes something else, because another module reads a
    convolution's output too, nothing is folded. Modules, parameters and hooks stay as they are. No gradients are
    recorded, and no other thread may fold the same network at the same time.

    `network` is in evaluation mode; `compute` is what will be computed with it or its parts: images -> float [N, ...];
    `images` are an example, float [N, C, H, W].
    """
    with torch.no_grad(), ExitStack() as replacements:
        if any(_is_foldable(module) for module in network.modules()):
            with full_precision():
                expected = compute(images)
                for convolution, norm in _pairs(network, images):
                    replacements.enter_context(
                        replaced_forward(convolution, fuse_conv_bn_eval(convolution, norm).forward)
                    )
                    activation = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                    replacements.enter_context(replaced_forward(norm, activation.forward))
                result = compute(images)
            if not is_close(result, expected, tolerance=1e-4):
                log.info("batch norms are not folded into convolutions: the network would compute something else")
                replacements.close()
        yield


@contextmanager
def full_precision() -> Iterator[None]:
    """Disable TF32 in a GPU's convolutions, so that a real difference is not taken for rounding."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def is_close(result: Tensor, expected: Tensor, tolerance: float | None = None, scale: float = 0) -> bool:
    """Whether the largest difference of two tensors of one shape is rounding alone; non-finite values never are.

    `tolerance` is relative to the largest expected value; None: what the device's default precision causes. `scale` is
    the magnitude of the summands, where large numbers cancelled in the sum.
    """
    if tolerance is None:
        tolerance = 1e-4 if expected.device.type == "cpu" else 1e-2  # GPUs may multiply in TF32 (10 bits)
    difference = float((result - expected).detach().abs().max())
    largest = float(expected.detach().abs().max()) + 1e-2 * scale
    return math.isfinite(difference) and difference <= tolerance * largest


def _is_foldable(module: nn.Module) -> bool:
    """A batch norm whose statistics are constants in evaluation mode."""
    return type(module) in NORMS and module.running_mean is not None


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions, each with the batch norm that reads its output, where both run exactly once in a forward pass."""
    outputs: dict[nn.Module, list[Tensor]] = {}
    inputs: dict[nn.Module, list[Tensor]] = {}

    def record(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if type(module) in CONVOLUTIONS:
            outputs.setdefault(module, []).append(output)
        elif _is_foldable(module):
            inputs.setdefault(module, []).append(args[0])

    with ExitStack() as hooks:
        for module in network.modules():
            hooks.callback(module.register_forward_hook(record).remove)
        network(images)
    writers = {id(tensors[0]): module for module, tensors in outputs.items() if len(tensors) == 1}
    readers = [(module, tensors[0]) for module, tensors in inputs.items() if len(tensors) == 1]
    pairs: list[Any] = [(writers[id(tensor)], norm) for norm, tensor in readers if id(tensor) in writers]
    return pairs
