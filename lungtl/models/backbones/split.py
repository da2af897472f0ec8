"""Cut a backbone in front of the first block that trains, so that the output of the frozen prefix can be cached.

The cut follows one recorded forward pass. The first module whose parameters all train is the boundary; its input is
what is cached. The suffix runs the same network with that input substituted and all modules before the boundary
skipped, so parameters are shared: what trains, is saved or exported is the one network.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from lungtl.models.backbones.base import Backbone
from lungtl.models.folding import folded, is_close
from lungtl.models.module_state import all_require_grad, evaluation_mode, replaced_forward
from lungtl.settings.errors import LungtlError, first_line


class CannotSplit(LungtlError):
    """A network cannot be cut at a boundary; it can still train, without the feature cache."""


class Split:
    """A completely frozen backbone: a row of features is a slice's embedding."""

    whole = True  # a row is the embedding itself

    def __init__(self, backbone: Backbone) -> None:
        self.backbone = backbone
        self.blocks = len(backbone.blocks())  # leading blocks that `prefix` computes
        self.width = backbone.dim  # size of a row

    def prefix(self, images: Tensor) -> Tensor:
        """The frozen part: normalised float [N, C, H, W] -> rows [N, width]."""
        rows: Tensor = self.backbone(images)
        return rows

    def suffix(self, rows: Tensor) -> Tensor:
        """The rest of the network: rows [N, width] -> embeddings [N, dim]."""
        return rows

    def folded(self, size: int) -> AbstractContextManager[None]:
        """Fold batch norms in both parts, in evaluation mode: see `lungtl.models.folding`."""
        return folded(self.backbone, self._all_outputs, _noise(self.backbone, 1, size))

    def _all_outputs(self, images: Tensor) -> Tensor:
        """Everything that is ever computed from images: [N, ...]."""
        return self.prefix(images)


class BoundarySplit(Split):
    """A backbone whose first blocks never train.

    A row is the boundary's input, flattened (feature maps as [H, W, C], so that a batch is channels-last), followed by
    those parts of the embedding that are computed before the boundary (features="stages").

    Raises:
        CannotSplit: prefix and suffix do not reproduce the network's outputs and gradients.
    """

    whole = False

    def __init__(self, backbone: Backbone, blocks: int, size: int) -> None:
        self.backbone = backbone
        self.blocks = blocks
        images = _noise(backbone, 2, size)
        with evaluation_mode(backbone), torch.enable_grad():
            try:
                self._find_boundary(images)
                _verify(self, images)
            # a module that does not accept the placeholders fails in its own way
            except (RuntimeError, TypeError, ValueError, LookupError, AttributeError, AssertionError) as error:
                raise self._cannot_split(first_line(error)) from error

    def prefix(self, images: Tensor) -> Tensor:
        recorded: list[Tensor] = []

        def record(module: nn.Module, args: tuple[Any, ...]) -> None:
            recorded.append(args[0].clone())  # the module may work in place

        hook = self._boundary.register_forward_pre_hook(record)
        try:
            parts = self.backbone.parts(images.contiguous(memory_format=torch.channels_last))
        finally:
            hook.remove()
        return torch.cat([_flatten(recorded[0]), *(parts[i] for i in self._parts_before)], dim=1)

    def suffix(self, rows: Tensor) -> Tensor:
        activation, *parts_before = rows.split(self._sizes, dim=1)
        parts = self._parts_after(_unflatten(activation, self._shape))
        for index, part in zip(self._parts_before, parts_before, strict=True):
            parts[index] = part
        return torch.cat(parts, dim=1)

    def _all_outputs(self, images: Tensor) -> Tensor:
        rows = self.prefix(images)
        return torch.cat([rows, self.suffix(rows)], dim=1)

    def _find_boundary(self, images: Tensor) -> None:
        """Locate the cut and determine what a row consists of."""
        with torch.no_grad():
            trace = _trace(self.backbone, self.blocks, images)
        if trace.boundary is None or not isinstance(trace.activation, Tensor):
            raise self._cannot_split("its first training block does not take a single tensor")
        self._boundary = trace.boundary
        self._shape = trace.activation.shape[1:]
        self._image_size = images.shape[-1]
        self._skipped: dict[nn.Module, list[torch.Size]] = {}
        for _, module, output in trace.finished:
            if not isinstance(output, Tensor) or len(output) != len(images):
                raise self._cannot_split(f"{type(module).__name__} before the boundary does not return a tensor")
            self._skipped.setdefault(module, []).append(output.shape[1:])
        with all_require_grad(self.backbone, False):
            parts = self._parts_after(trace.activation.clone().requires_grad_())
        self._parts_before = [index for index, part in enumerate(parts) if not part.requires_grad]
        self._sizes = [prod(self._shape), *(parts[index].shape[1] for index in self._parts_before)]
        self.width = sum(self._sizes)

    def _parts_after(self, activation: Tensor) -> list[Tensor]:
        """The parts of the embedding; those from before the boundary contain placeholders."""
        zero = activation.new_zeros(())  # expanded placeholders take no memory
        images = zero.expand(len(activation), self.backbone.in_chans, self._image_size, self._image_size)
        reached = False
        with ExitStack() as placeholders:
            for module, shapes in self._skipped.items():
                outputs = iter([zero.expand(len(activation), *shape) for shape in shapes])
                placeholders.enter_context(replaced_forward(module, partial(_next_output, outputs)))

            def substitute(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
                nonlocal reached
                reached = True
                placeholders.close()  # from here on the network is unchanged
                return (activation, *args[1:])

            placeholders.callback(self._boundary.register_forward_pre_hook(substitute).remove)
            parts = self.backbone.parts(images)
        if not reached:  # the result would consist of placeholders
            raise self._cannot_split("its modules were replaced since; cut it again")
        return parts

    def _cannot_split(self, reason: str) -> CannotSplit:
        return CannotSplit(f"{self.backbone.name} cannot be cut after block {self.blocks}: {reason}")


def split_backbone(backbone: Backbone, blocks: int, size: int) -> Split:
    """Cut a backbone after its first blocks, which never train; raises CannotSplit if that is impossible."""
    return Split(backbone) if blocks == len(backbone.blocks()) else BoundarySplit(backbone, blocks, size)


@dataclass
class _Trace:
    """A forward pass up to the boundary."""

    boundary: nn.Module | None = None  # the first called module whose parameters all train
    activation: Any = None  # its first input
    finished: list[tuple[int, nn.Module, Any]] = field(default_factory=list)  # (depth, module, output) of earlier calls


def _trace(backbone: Backbone, blocks: int, images: Tensor) -> _Trace:
    trained = {id(backbone.get_parameter(name)) for block in backbone.blocks()[blocks:] for name in block.parameters}
    trace, depth = _Trace(), 0

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        nonlocal depth
        parameters = {id(parameter) for parameter in module.parameters()}
        if trace.boundary is None and parameters and parameters <= trained:
            trace.boundary, trace.activation = module, args[0] if args else None
        depth += 1

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        nonlocal depth
        depth -= 1
        if trace.boundary is None:
            while trace.finished and trace.finished[-1][0] > depth:
                trace.finished.pop()  # was called by this module
            trace.finished.append((depth, module, output))

    with ExitStack() as hooks:
        for module in backbone.modules():
            hooks.callback(module.register_forward_pre_hook(enter).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        backbone.parts(images)
    return trace


def _verify(split: BoundarySplit, images: Tensor) -> None:
    """Compare outputs and gradients of prefix and suffix with those of the whole network."""
    backbone = split.backbone
    after = {name for block in backbone.blocks()[split.blocks :] for name in block.parameters}
    names, parameters = zip(*backbone.named_parameters(), strict=True)
    with all_require_grad(backbone, True):
        whole = backbone(images)
        halves = split.suffix(split.prefix(images).detach())
        expected = torch.autograd.grad(whole.square().sum(), parameters, allow_unused=True)
        result = torch.autograd.grad(halves.square().sum(), parameters, allow_unused=True)
    if not is_close(halves, whole):
        raise ValueError("its two parts do not reproduce the network's output")
    largest = max(float(gradient.abs().max()) for gradient in expected if gradient is not None)
    for name, gradient, whole_gradient in zip(names, result, expected, strict=True):
        if gradient is None or whole_gradient is None or name not in after:
            same = gradient is None and (whole_gradient is None or name not in after)
        else:
            same = is_close(gradient, whole_gradient, scale=largest)
        if not same:
            raise ValueError(f"its two parts do not reproduce the gradient of {name}")


def _noise(backbone: Backbone, count: int, size: int) -> Tensor:
    """Noise, with its own generator, so that a run's random state does not depend on the cache."""
    images = torch.randn(count, backbone.in_chans, size, size, generator=torch.Generator().manual_seed(0))
    return images.to(next(backbone.parameters()).device)


def _next_output(outputs: Iterator[Tensor], *args: Any, **kwargs: Any) -> Tensor:
    """The forward pass of a skipped module."""
    return next(outputs)


def _flatten(activation: Tensor) -> Tensor:
    return (activation.permute(0, 2, 3, 1) if activation.ndim == 4 else activation).flatten(1)


def _unflatten(row: Tensor, shape: torch.Size) -> Tensor:
    if len(shape) != 3:
        return row.unflatten(1, shape)  # type: ignore[no-any-return]
    channels, height, width = shape
    maps: Tensor = row.unflatten(1, (height, width, channels)).permute(0, 3, 1, 2)
    return maps
