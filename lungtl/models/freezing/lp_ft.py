"""Linear probe first, then fine-tune everything."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from typing import Annotated

from annotated_types import Ge, Gt

from lungtl.models.backbones.base import Backbone
from lungtl.models.freezing.base import FreezingStrategy, Group

log = logging.getLogger(__name__)


class LpFt(FreezingStrategy):
    """Only head and aggregator train until validation stops improving; then everything trains.

    A random head would distort the pretrained features: Kumar et al. (2022), "Fine-Tuning can Distort Pretrained
    Features and Underperform Out-of-Distribution".

    The probe ends after `patience` epochs without improvement of `trainer.monitor`, at the latest after `probe_epochs`.
    """

    def __init__(
        self,
        probe_epochs: Annotated[int, Ge(1)] = 20,
        patience: Annotated[int, Ge(1)] = 3,
        lr_scale: Annotated[float, Gt(0)] = 0.1,
    ) -> None:
        self.patience = patience
        self.lr_scale = lr_scale
        self._unfreezes_at = probe_epochs
        self._decided = False
        self._best = math.inf
        self._bad_epochs = 0

    def groups(self, backbone: Backbone) -> list[Group]:
        names = tuple(name for name, _ in backbone.named_parameters())
        return [Group("backbone", names, self.lr_scale, epoch=self._unfreezes_at, at_latest=not self._decided)]

    def after_epoch(self, epoch: int, value: float) -> None:
        if self._decided:
            return
        if value < self._best:
            self._best, self._bad_epochs = value, 0
        else:
            self._bad_epochs += 1
        if self._bad_epochs == self.patience or epoch + 1 == self._unfreezes_at:
            self._unfreezes_at, self._decided = epoch + 1, True
            log.info("linear probe ended after %d epochs; the backbone is unfrozen", self._unfreezes_at)

    def state(self) -> dict[str, float]:
        return {
            "unfreezes_at": self._unfreezes_at,
            "decided": self._decided,
            "best": self._best,
            "bad_epochs": self._bad_epochs,
        }

    def restore(self, state: Mapping[str, float]) -> None:
        self._unfreezes_at, self._bad_epochs = int(state["unfreezes_at"]), int(state["bad_epochs"])
        self._decided, self._best = bool(state["decided"]), state["best"]
