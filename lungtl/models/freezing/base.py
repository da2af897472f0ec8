"""The contract of a freezing strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from lungtl.models.backbones.timm_backbone import TimmBackbone


@dataclass(frozen=True)
class Group:
    """Parameters that thaw together and share a learning rate.

    Attributes:
        name: for the optimiser and for tables.
        parameters: their names in the backbone.
        lr_scale: their learning rate as a share of the head's.
        epoch: the first one that trains them, counted from 0.
        at_latest: the strategy may decide, while training, that they thaw before `epoch`.
    """

    name: str
    parameters: tuple[str, ...]
    lr_scale: float
    epoch: int = 0
    at_latest: bool = False


class FreezingStrategy(ABC):
    """Decides which of the backbone's parameters train, when, and at which learning rate.

    A strategy says it all with `groups`; the other methods have defaults that suit most. It holds no tensors.
    What it does follows from its options, the epoch and `state()`, which every checkpoint keeps, so that a resumed
    run goes on as it would have gone on.

    A run calls, in this order: `adapt` once; `groups`, `apply` at each epoch's start and `after_epoch` at its end;
    `merge` once.

    Attributes:
        weights: what `backbone.weights` has to be; None leaves it to the user.
    """

    weights: str | None = None

    @abstractmethod
    def groups(self, backbone: TimmBackbone) -> list[Group]:
        """Every parameter that trains at any time, in one group each; what is in none never trains.

        Always the same groups in the same order: those that thaw later are in the optimiser from the start, which
        passes over parameters without a gradient (no decay either), so that a checkpoint fits at any epoch.
        """

    def adapt(self, backbone: TimmBackbone) -> None:  # noqa: B027  # most need it not
        """Put into the network what the strategy trains beside its own parameters; once, before everything else."""

    def merge(self, backbone: TimmBackbone) -> None:  # noqa: B027  # most need it not
        """Undo `adapt`, keeping what was learned: afterwards the network is a plain timm model again."""

    def after_epoch(self, epoch: int, value: float) -> None:  # noqa: B027  # most need it not
        """Learn how an epoch went.

        Args:
            epoch: the one that ends, counted from 0.
            value: what `trainer.monitor` measured on the validation split, its sign such that lower is better.
        """

    def state(self) -> dict[str, float]:
        """What `after_epoch` has learned, for the checkpoint."""
        return {}

    def restore(self, state: Mapping[str, float]) -> None:  # noqa: B027  # most need it not
        """Take up a checkpoint's `state()`."""

    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        """Set `requires_grad` of the backbone's parameters for an epoch, counted from 0."""
        train_only(backbone, _names(group for group in self.groups(backbone) if group.epoch <= epoch))

    def parameter_groups(self, backbone: TimmBackbone, lr: float) -> list[dict[str, Any]]:
        """The optimiser's groups, given the head's learning rate."""
        parameters = dict(backbone.named_parameters())
        return [
            {"name": group.name, "params": [parameters[name] for name in group.parameters], "lr": lr * group.lr_scale}
            for group in self.groups(backbone)
        ]

    def frozen_blocks(self, backbone: TimmBackbone) -> int:
        """How many leading blocks never train.

        What they compute is the same in every epoch, so it may be cached; all blocks means that the embedding is.
        """
        trained = _names(self.groups(backbone))
        blocks = backbone.blocks()
        return next((i for i, block in enumerate(blocks) if not trained.isdisjoint(block.parameters)), len(blocks))

    def is_frozen(self, backbone: TimmBackbone) -> bool:
        """Whether nothing of the backbone ever trains."""
        return self.frozen_blocks(backbone) == len(backbone.blocks())

    def last_thaw(self, backbone: TimmBackbone) -> int:
        """The epoch from which everything trains that is to train."""
        return max((group.epoch for group in self.groups(backbone)), default=0)


def set_train_mode(module: nn.Module) -> None:
    """Put into train mode only what has a parameter that trains.

    Frozen means frozen: batch-norm statistics do not move and dropout does not drop where nothing trains. A layer
    that keeps running statistics adapts them only when all of its own parameters train: to a weight that is frozen
    belong the statistics that it was trained with. A layer without parameters (dropout, stochastic depth) follows
    the module that holds it.
    """

    def visit(part: nn.Module, holder_trains: bool) -> None:
        parameters = list(part.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            part.eval()  # and all within
            return
        enough = all if hasattr(part, "running_var") else any
        trains = enough(p.requires_grad for p in parameters) if parameters else holder_trains
        part.training = trains
        for child in part.children():
            visit(child, trains)

    visit(module, False)


def train_only(backbone: TimmBackbone, names: set[str]) -> None:
    """Let exactly the named parameters train."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)


def _names(groups: Iterable[Group]) -> set[str]:
    return {name for group in groups for name in group.parameters}
