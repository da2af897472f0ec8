"""The contract of a freezing strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from torch import nn

from lungtl.models.backbones.timm_backbone import TimmBackbone


class FreezingStrategy(ABC):
    """Decides which of the backbone's parameters train, when, and at which learning rate.

    A strategy is plain configuration: it holds no tensors, and everything it does follows from the epoch, so that a
    resumed run finds the same state.
    """

    @abstractmethod
    def frozen_blocks(self, backbone: TimmBackbone) -> int:
        """How many leading blocks never train.

        What they compute is the same in every epoch, so it may be cached; all blocks means that the embedding is.
        """

    @abstractmethod
    def apply(self, backbone: TimmBackbone, epoch: int) -> None:
        """Set `requires_grad` of the backbone's parameters for an epoch, counted from 0."""

    @abstractmethod
    def parameter_groups(self, backbone: TimmBackbone, lr: float) -> list[dict[str, Any]]:
        """The optimiser's groups of the parameters that train at any time, given the head's learning rate."""

    def is_frozen(self, backbone: TimmBackbone) -> bool:
        """Whether nothing of the backbone ever trains."""
        return self.frozen_blocks(backbone) == len(backbone.blocks())


def set_train_mode(module: nn.Module) -> None:
    """Put into train mode only what has a parameter that trains.

    Frozen means frozen: batch-norm statistics do not move and dropout does not drop where nothing trains. A layer
    without parameters (dropout, stochastic depth) follows the module that holds it.
    """

    def visit(part: nn.Module, holder_trains: bool) -> None:
        parameters = list(part.parameters())
        trains = any(p.requires_grad for p in parameters) if parameters else holder_trains
        part.training = trains
        for child in part.children():
            visit(child, trains)

    visit(module, False)


def train_only(backbone: TimmBackbone, names: set[str]) -> None:
    """Let exactly the named parameters train."""
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(name in names)
