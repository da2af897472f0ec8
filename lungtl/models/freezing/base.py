"""The contract of a freezing strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lungtl.models.backbones.base import Backbone, Block
from lungtl.settings.errors import UsageError


@dataclass(frozen=True)
class Group:
    """Parameters that are unfrozen together and share a learning rate."""

    name: str  # for the optimiser and for tables
    parameters: tuple[str, ...]  # their names in the backbone
    lr_scale: float  # their learning rate as a share of the head's
    epoch: int = 0  # the first epoch that trains them, from 0
    at_latest: bool = False  # the strategy may decide during training to unfreeze them before `epoch`


class FreezingStrategy(ABC):
    """Decides which of the backbone's parameters train, when, and at which learning rate.

    A subclass must define `groups`; the other methods have defaults that suit most. A strategy holds no tensors: it
    depends on its options, the epoch and `state()`, which checkpoints contain. A run calls `adapt` once; `groups`,
    `apply` at the start and `after_epoch` at the end of each epoch; `merge` once.
    """

    weights: str | None = None  # required value of `backbone.weights`; None allows any

    @abstractmethod
    def groups(self, backbone: Backbone) -> list[Group]:
        """All parameters that train at any time, each in one group; all others never train.

        Always the same groups in the same order: groups that are unfrozen later are in the optimiser from the start
        (it skips parameters without a gradient, weight decay included), so that a checkpoint fits at any epoch.
        """

    def adapt(self, backbone: Backbone) -> None:  # noqa: B027  # optional
        """Insert what the strategy trains in addition to the network's own parameters; called first, once."""

    def merge(self, backbone: Backbone) -> None:  # noqa: B027  # optional
        """Undo `adapt` but keep what was learned: the network has its own layers again."""

    def after_epoch(self, epoch: int, value: float) -> None:  # noqa: B027  # optional
        """Called after epoch 0, 1, ... with the value of `trainer.monitor`, signed such that lower is better."""

    def state(self) -> dict[str, float]:
        """What `after_epoch` has decided, for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:  # noqa: B027  # optional
        """Restore a checkpoint's `state()`."""

    def apply(self, backbone: Backbone, epoch: int) -> None:
        """Set `requires_grad` of the backbone's parameters for an epoch, from 0."""
        trainable = _names(group for group in self.groups(backbone) if group.epoch <= epoch)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name in trainable)

    def parameter_groups(self, backbone: Backbone, lr: float) -> list[dict[str, Any]]:
        """The optimiser's parameter groups, given the head's learning rate."""
        parameters = dict(backbone.named_parameters())
        return [
            {"name": group.name, "params": [parameters[name] for name in group.parameters], "lr": lr * group.lr_scale}
            for group in self.groups(backbone)
        ]

    def frozen_blocks(self, backbone: Backbone) -> int:
        """Number of leading blocks that never train, whose output can therefore be cached."""
        trained = _names(self.groups(backbone))
        blocks = backbone.blocks()
        return next((i for i, block in enumerate(blocks) if not trained.isdisjoint(block.parameters)), len(blocks))

    def is_frozen(self, backbone: Backbone) -> bool:
        """Whether the backbone never trains at all."""
        return self.frozen_blocks(backbone) == len(backbone.blocks())

    def last_unfreezing(self, backbone: Backbone) -> int:
        """The epoch from which all groups train."""
        return max((group.epoch for group in self.groups(backbone)), default=0)


def top_blocks(backbone: Backbone, count: int | None, option: str) -> list[Block]:
    """The last blocks of a backbone, from the output down; raises UsageError if it has fewer."""
    blocks = backbone.blocks()[::-1]
    if count is not None and count > len(blocks):
        raise UsageError(f"{option}={count}: {backbone.name} has {len(blocks)} blocks; give 1 to {len(blocks)}")
    return blocks[:count]


def set_train_mode(module: nn.Module) -> None:
    """Put only modules with trainable parameters into train mode.

    Frozen means frozen: batch-norm statistics do not change and dropout is off where nothing trains. A layer with
    running statistics updates them only if all of its own parameters train, since frozen weights belong to the
    statistics they were trained with. A layer without parameters (dropout, stochastic depth) follows its parent.
    """

    def visit(part: nn.Module, parent_trains: bool) -> None:
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()  # and all submodules
            return
        required = all if hasattr(part, "running_var") else any
        trains = required(p.requires_grad for p in parameters) if parameters else parent_trains
        part.training = trains
        for child in part.children():
            visit(child, trains)

    visit(module, False)


def _names(groups: Iterable[Group]) -> set[str]:
    return {name for group in groups for name in group.parameters}
