"""Batch norms that evaluate, computed by the convolutions before them: the same numbers in fewer passes over memory."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from lungtl.models.replacing import replacing
from lungtl.models.rounding import same

log = logging.getLogger(__name__)
CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
NORMS = (nn.BatchNorm2d, BatchNormAct2d)
"""Whose computation is known; what is derived from them may compute something else."""


@contextmanager
def folded(network: nn.Module, compute: Callable[[Tensor], Tensor], images: Tensor) -> Iterator[None]:
    """Let a network's convolutions scale and shift for the batch norms that read them, for a while.

    In evaluation a batch norm multiplies and shifts each channel by constants; the convolution before it can have them
    in its weights. Which norm reads which convolution is seen in one pass. Where the folded network does not compute
    the same, something else reads a convolution too, and nothing is folded. Modules, parameters and hooks stay as they
    are; meanwhile no gradient is kept, and no other thread may fold the same network.

    Args:
        network: in evaluation mode; images -> anything.
        compute: what will be computed, by calling the network or parts of it: images -> float [N, ...].
        images: float [N, C, H, W], an example.
    """
    with torch.no_grad(), ExitStack() as folds:
        if any(_foldable(module) for module in network.modules()):
            with _full_precision():
                expected = compute(images)
                for convolution, norm in _pairs(network, images):
                    folds.enter_context(replacing(convolution, fuse_conv_bn_eval(convolution, norm).forward))
                    rest = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                    folds.enter_context(replacing(norm, rest.forward))
                found = compute(images)
            if not same(found, expected, rounding=1e-4):
                log.info("batch norms are not folded into convolutions: the network would compute something else")
                folds.close()
        yield


@contextmanager
def _full_precision() -> Iterator[None]:
    """Let a GPU's convolutions multiply with all bits for a while, so that a difference is not taken for rounding."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def _foldable(module: nn.Module) -> bool:
    """Whether it is a batch norm whose statistics are constants in evaluation."""
    return type(module) in NORMS and module.running_mean is not None


def _pairs(network: nn.Module, images: Tensor) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """The convolutions, with the norm that reads each, of which both compute once in a pass."""
    outputs: dict[nn.Module, list[Tensor]] = {}
    inputs: dict[nn.Module, list[Tensor]] = {}

    def see(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if type(module) in CONVOLUTIONS:
            outputs.setdefault(module, []).append(output)
        elif _foldable(module):
            inputs.setdefault(module, []).append(args[0])

    with ExitStack() as hooks:
        for module in network.modules():
            hooks.callback(module.register_forward_hook(see).remove)
        network(images)
    writers = {id(own[0]): module for module, own in outputs.items() if len(own) == 1}
    readers = [(module, own[0]) for module, own in inputs.items() if len(own) == 1]
    pairs: list[Any] = [(writers[id(read)], norm) for norm, read in readers if id(read) in writers]
    return pairs
