"""A backbone cut where training begins: what comes before the cut can be computed once and kept.

The cut follows one recorded pass. The first module whose parameters all train is the boundary; its input is kept.
Behind the cut the same network runs again, with that input put in its place and every module before it skipped, so
parameters are shared, and what trains, is saved or exported is the one network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.evaluating import evaluating
from lungtl.models.folding import folded
from lungtl.models.replacing import replacing
from lungtl.models.rounding import same
from lungtl.settings.errors import LungtlError


class CannotSplit(LungtlError):
    """A network that cannot be cut at a boundary; it trains as well, only without the feature cache."""


class Split:
    """A backbone of which nothing trains: a row of features is a slice's embedding.

    Args:
        backbone: is shared, not copied.

    Attributes:
        blocks: leading block groups that `prefix` computes.
        width: size of a row.
        whole: whether a row is the embedding itself.
    """

    whole = True

    def __init__(self, backbone: TimmBackbone) -> None:
        self.backbone = backbone
        self.blocks = len(backbone.blocks())
        self.width = backbone.dim

    def prefix(self, images: Tensor) -> Tensor:
        """What never trains: float [N, 3, H, W], normalised -> rows [N, width]."""
        rows: Tensor = self.backbone(images)
        return rows

    def suffix(self, rows: Tensor) -> Tensor:
        """What is left to do: rows [N, width] -> embeddings [N, dim]."""
        return rows

    def folded(self, size: int) -> AbstractContextManager[None]:
        """Let both, in evaluation mode, compute the same faster for a while: see `lungtl.models.folding`.

        Args:
            size: pixels a side of the images.
        """
        # a generator of its own: a run draws the same with and without folding
        image = torch.randn(1, self.backbone.in_chans, size, size, generator=torch.Generator().manual_seed(0))
        return folded(self.backbone, self._all, image.to(next(self.backbone.parameters()).device))

    def _all(self, images: Tensor) -> Tensor:
        """All that is ever computed of images: [N, ...]."""
        return self.prefix(images)


class BoundarySplit(Split):
    """A backbone whose first blocks never train.

    A row is the boundary's input, flat (maps as [H, W, C], so that a batch of them is channels-last already), then
    those parts of the embedding that come from before the boundary (features="stages").

    Args:
        backbone: is shared, not copied.
        blocks: how many leading block groups never train; at least one, not all.
        size: pixels a side of the images.

    Raises:
        CannotSplit: the two halves are not the whole, in value or in gradient.
    """

    whole = False

    def __init__(self, backbone: TimmBackbone, blocks: int, size: int) -> None:
        self.backbone = backbone
        self.blocks = blocks
        device = next(backbone.parameters()).device
        # a generator of its own: a run draws the same with and without the cache
        images = torch.randn(2, backbone.in_chans, size, size, generator=torch.Generator().manual_seed(0)).to(device)
        with evaluating(backbone), torch.enable_grad():
            try:
                self._find(images)
                _check(self, images)
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
                # a module that does not take the stand-ins fails in its own way; each means the same here
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise CannotSplit(f"{self._title()}: {reason}") from error

    def prefix(self, images: Tensor) -> Tensor:
        seen: list[Tensor] = []

        def keep(module: nn.Module, args: tuple[Any, ...]) -> None:
            seen.append(args[0].clone())  # cloned: the module may start by working in place

        hook = self._boundary.register_forward_pre_hook(keep)
        try:
            parts = self.backbone.parts(images.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        return torch.cat([_flat(seen[0]), *(parts[i] for i in self._kept)], dim=1)

    def suffix(self, rows: Tensor) -> Tensor:
        activation, *kept = rows.split(self._sizes, dim=1)
        parts = self._parts_behind(_unflat(activation, self._shape))
        for index, part in zip(self._kept, kept, strict=True):
            parts[index] = part
        return torch.cat(parts, dim=1)

    def _all(self, images: Tensor) -> Tensor:
        rows = self.prefix(images)
        return torch.cat([rows, self.suffix(rows)], dim=1)

    def _find(self, images: Tensor) -> None:
        """Set where the cut lies and what a row is made of."""
        with torch.no_grad():
            trace = _trace(self.backbone, self.blocks, images)
        if trace.boundary is None or not isinstance(trace.activation, Tensor):
            raise CannotSplit(f"{self._title()}: its first training block does not start with one tensor")
        self._boundary = trace.boundary
        self._shape = trace.activation.shape[1:]
        self._size = images.shape[-1]
        self._skipped: dict[nn.Module, list[torch.Size]] = {}
        for _, module, output in trace.done:
            if not isinstance(output, Tensor) or len(output) != len(images):
                raise CannotSplit(f"{self._title()}: {type(module).__name__} before the boundary gives no tensor")
            self._skipped.setdefault(module, []).append(output.shape[1:])
        with _trainable(self.backbone, False):
            parts = self._parts_behind(trace.activation.clone().requires_grad_())
        self._kept = [index for index, part in enumerate(parts) if not part.requires_grad]
        self._sizes = [prod(self._shape), *(parts[index].shape[1] for index in self._kept)]
        self.width = sum(self._sizes)

    def _parts_behind(self, activation: Tensor) -> list[Tensor]:
        """The parts of the embedding; those from before the boundary hold nothing."""
        nothing = activation.new_zeros(())  # stand-ins take no memory: one zero, seen as often as needed
        images = nothing.expand(len(activation), self.backbone.in_chans, self._size, self._size)
        reached = False
        with ExitStack() as stand_ins:
            for module, shapes in self._skipped.items():
                outputs = iter([nothing.expand(len(activation), *shape) for shape in shapes])
                stand_ins.enter_context(replacing(module, partial(_next, outputs)))

            def substitute(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                nonlocal reached
                reached = True
                stand_ins.close()  # what follows is the network as it is
                return (activation, *args[1:])

            stand_ins.callback(self._boundary.register_forward_pre_hook(substitute).remove)
            parts = self.backbone.parts(images)
        if not reached:  # else stand-ins would pass for results
            raise CannotSplit(f"{self._title()} any more: its modules were exchanged since; cut it again")
        return parts

    def _title(self) -> str:
        return f"{self.backbone.name} cannot be cut behind block {self.blocks}"


def split_backbone(backbone: TimmBackbone, blocks: int, size: int) -> Split:
    """Cut a backbone behind its first blocks, which never train.

    Args:
        backbone: is shared, not copied.
        blocks: at least one; all of them make a row the embedding.
        size: pixels a side of the images.

    Raises:
        CannotSplit: this network cannot be cut there.
    """
    return Split(backbone) if blocks == len(backbone.blocks()) else BoundarySplit(backbone, blocks, size)


@dataclass
class _Trace:
    """One pass, up to the boundary.

    Attributes:
        boundary: the first module called whose parameters all train.
        activation: its first input.
        done: (depth, module, output) of the outermost calls that ended before it, in order.
    """

    boundary: nn.Module | None
    activation: Any
    done: list[tuple[int, nn.Module, Any]]


def _trace(backbone: TimmBackbone, blocks: int, images: Tensor) -> _Trace:
    trained = {id(backbone.get_parameter(name)) for block in backbone.blocks()[blocks:] for name in block.parameters}
    trace, depth = _Trace(None, None, []), 0

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal depth
        own = {id(parameter) for parameter in module.parameters()}
        if trace.boundary is None and own and own <= trained:
            trace.boundary, trace.activation = module, args[0] if args else None
        depth += 1

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal depth
        depth -= 1
        if trace.boundary is None:
            while trace.done and trace.done[-1][0] > depth:
                trace.done.pop()  # it was called by this module
            trace.done.append((depth, module, output))

    with ExitStack() as hooks:
        for module in backbone.net.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        backbone.parts(images)
    return trace


def _check(split: BoundarySplit, images: Tensor) -> None:
    """Hold both halves against the whole; raises CannotSplit."""
    backbone = split.backbone
    behind = {name for block in backbone.blocks()[split.blocks :] for name in block.parameters}
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    with _trainable(backbone, True):
        whole = backbone(images)
        halves = split.suffix(split.prefix(images).detach())
        expected = torch.autograd.grad(whole.square().sum(), parameters, allow_unused=True)
        found = torch.autograd.grad(halves.square().sum(), parameters, allow_unused=True)
    if not same(halves, whole):
        raise CannotSplit(f"{split._title()}: its two halves do not make up the whole")
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for name, a, b in zip(names, found, expected, strict=True):
        reached = b is not None and name in behind
        if (a is not None) != reached or (a is not None and b is not None and not same(a, b, largest)):
            raise CannotSplit(f"{split._title()}: the gradient of {name} is another")


def _next(outputs: Iterator[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """What a module returns instead of computing, one a call."""
    return next(outputs)


def _flat(activation: Tensor) -> Tensor:
    return (activation.permute(0, 2, 3, 1) if activation.ndim == 4 else activation).flatten(1)


def _unflat(row: Tensor, shape: torch.Size) -> Tensor:
    activation: Tensor
    if len(shape) != 3:
        activation = row.unflatten(1, shape)
    else:
        channels, height, width = shape
        activation = row.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    return activation


@contextmanager
def _trainable(module: nn.Module, value: bool) -> Iterator[None]:
    """Let all parameters require a gradient, or none, for a while."""
    before = {parameter: parameter.requires_grad for parameter in module.parameters()}
    module.requires_grad_(value)
    try:
        yield
    finally:
        for parameter, required in before.items():
            parameter.requires_grad_(required)
