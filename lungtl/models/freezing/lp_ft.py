"""Linear probe first, then fine-tune everything."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.freezing.base import FreezingStrategy, Group

log = logging.getLogger(__name__)


class LpFt(FreezingStrategy):
    """Head and aggregator train alone until validation no longer improves; then everything trains.

    A random head would first distort the features that it is to use: Kumar et al. (2022), "Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution".

    Args:
        probe_epochs: the backbone thaws after so many epochs at the latest.
        patience: epochs without improvement of `trainer.monitor` after which it thaws.
        lr_scale: the backbone's learning rate, once it trains, as a share of the head's.
    """

    def __init__(
        self,
        probe_epochs: Annotated[int, Ge(1)] = 20,
        patience: Annotated[int, Ge(1)] = 3,
        lr_scale: Annotated[float, Gt(0)] = 0.1,
    ) -> None:
        self.patience = patience
        self.lr_scale = lr_scale
        self._thaws = probe_epochs
        self._decided = False
        self._best = math.inf
        self._waited = 0

    def groups(self, backbone: TimmBackbone) -> list[Group]:
        names = tuple(name for name, _ in backbone.named_parameters())
        return [Group("backbone", names, self.lr_scale, epoch=self._thaws, at_latest=not self._decided)]

    def after_epoch(self, epoch: int, value: float) -> None:
        if self._decided:
            return
        if value < self._best:
            self._best, self._waited = value, 0
        else:
            self._waited += 1
        if self._waited == self.patience or epoch + 1 == self._thaws:
            self._thaws, self._decided = epoch + 1, True
            log.info("the probe has ended after %d epochs", self._thaws)

    def state(self) -> dict[str, float]:
        return {"thaws": self._thaws, "decided": self._decided, "best": self._best, "waited": self._waited}

    def restore(self, state: Mapping[str, float]) -> None:
        self._thaws, self._waited = int(state["thaws"]), int(state["waited"])
        self._decided, self._best = bool(state["decided"]), state["best"]
