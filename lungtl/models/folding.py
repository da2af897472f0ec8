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
    are; meanwhile no gradient is kept.

    Args:
        network: in evaluation mode.
        compute: what will be computed, by calling the network: images -> float [N, ...].
        images: float [N, C, H, W], an example.
    """
    if not any(_foldable(module) for module in network.modules()):
        yield
        return
    with torch.no_grad():
        pairs, expected = _observed(network, compute, images)
        with ExitStack() as folds:
            for convolution, norm in pairs:
                folds.enter_context(replacing(convolution, fuse_conv_bn_eval(convolution, norm).forward))
                rest = norm.act if isinstance(norm, BatchNormAct2d) else nn.Identity()
                folds.enter_context(replacing(norm, rest.forward))
            if not same(compute(images), expected):
                log.info("batch norms are not folded into convolutions: the network would compute something else")
                folds.close()
            yield


def _foldable(module: nn.Module) -> bool:
    """Whether it is a batch norm whose statistics are constants in evaluation."""
    return type(module) in NORMS and module.running_mean is not None


def _observed(
    network: nn.Module, compute: Callable[[Tensor], Tensor], images: Tensor
) -> tuple[list[tuple[nn.Conv2d, nn.BatchNorm2d]], Tensor]:
    """The convolutions, with the norm that reads each, of which both compute once; and what is computed."""
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
        expected = compute(images)
    writers = {id(own[0]): module for module, own in outputs.items() if len(own) == 1}
    readers = [(module, own[0]) for module, own in inputs.items() if len(own) == 1]
    pairs: Any = [(writers[id(read)], norm) for norm, read in readers if id(read) in writers]
    return pairs, expected
