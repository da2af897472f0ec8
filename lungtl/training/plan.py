"""The training plan of a run, block by block: `python -m lungtl.train dry_run=true`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy, Group
from lungtl.settings import parts
from lungtl.settings.schema import TrainConfig
from lungtl.training.build import build_classifier, starting_weights

log = logging.getLogger(__name__)

HEADER = ("part", "parameters", "trainable", "learning rate", "from epoch")


@dataclass(frozen=True)
class Row:
    """One part of the network."""

    part: str  # a block of the backbone, or a module after it
    parameters: int  # their number
    trainable: int  # number of those that train at any time
    rates: tuple[float, ...]  # their learning rates before the schedule
    epochs: tuple[str, ...]  # the first epochs that train them

    def cells(self) -> tuple[str, ...]:
        """Cells of the printed table."""
        rates = ", ".join(f"{rate:.3g}" for rate in self.rates) or "-"
        return self.part, f"{self.parameters:,}", f"{self.trainable:,}", rates, ", ".join(self.epochs) or "never"


def training_plan(classifier: BagClassifier, freezing: FreezingStrategy, lr: float, max_epochs: int) -> list[Row]:
    """One row for each block of the backbone, then for each module after it."""
    backbone = classifier.backbone
    sizes = {name: parameter.numel() for name, parameter in backbone.named_parameters()}
    groups = freezing.groups(backbone)
    rows = []
    for block in backbone.blocks():
        trained = {group: set(block.parameters).intersection(group.parameters) for group in groups}
        here = [group for group in groups if trained[group]]
        rows.append(
            Row(
                block.name,
                sum(sizes[name] for name in block.parameters),
                sum(sizes[name] for group in here for name in trained[group]),
                tuple(dict.fromkeys(lr * group.lr_scale for group in here)),
                tuple(dict.fromkeys(_start(group, max_epochs) for group in here)),
            )
        )
    heads = [
        (name, sum(parameter.numel() for parameter in module.parameters()))
        for name, module in classifier.named_children()
        if module is not backbone
    ]
    return rows + [Row(name, size, size, (lr,), ("1",)) for name, size in heads if size]


def trainable_share(classifier: BagClassifier, freezing: FreezingStrategy, max_epochs: int) -> tuple[int, int]:
    """Count (parameters that train within `max_epochs`, all parameters); the strategy has adapted the network.

    Warns of groups that would be unfrozen only after the last epoch.
    """
    groups = freezing.groups(classifier.backbone)
    if late := [group for group in groups if group.epoch >= max_epochs]:
        log.warning(
            "%s: %d of %d groups unfreeze only after the last epoch (trainer.max_epochs=%d)%s; dry_run=true lists them",
            type(freezing).__name__, len(late), len(groups), max_epochs,
            ", unless validation stops improving earlier" if late[0].at_latest else "",
        )  # fmt: skip
    backbone = {f"backbone.{name}" for name, _ in classifier.backbone.named_parameters()}
    trained = {
        f"backbone.{name}"
        for group in groups
        if group.epoch < max_epochs or group.at_latest
        for name in group.parameters
    }
    sizes = {name: parameter.numel() for name, parameter in classifier.named_parameters()}
    return sum(size for name, size in sizes.items() if name in trained or name not in backbone), sum(sizes.values())


def print_plan(config: TrainConfig) -> None:
    """Print the plan of a run to standard output; requires neither data nor weights."""
    weights = starting_weights(config)
    untrained = config.model_copy(update={"backbone": {**config.backbone, "weights": "none"}})
    classifier = build_classifier(untrained, value_range=None)
    freezing: FreezingStrategy = parts.build(config.freezing)
    freezing.adapt(classifier.backbone)
    rows = training_plan(classifier, freezing, config.optimizer["lr"], config.trainer.max_epochs)
    title = f"{classifier.backbone.name} (weights: {weights}), {type(freezing).__name__}"
    Console(markup=False, emoji=False, width=None if sys.stdout.isatty() else 120).print(_table(title, rows))


def _table(title: str, rows: Sequence[Row]) -> Table:
    table = Table(title=title, title_justify="left")
    for column in HEADER:
        table.add_column(column, justify="left" if column == "part" else "right")
    for row in rows:
        table.add_row(*row.cells())
    table.add_section()
    table.add_row(
        "total", f"{sum(row.parameters for row in rows):,}", f"{sum(row.trainable for row in rows):,}", "", ""
    )
    return table


def _start(group: Group, max_epochs: int) -> str:
    if group.at_latest:
        return f"{group.epoch + 1} at the latest"
    return str(group.epoch + 1) if group.epoch < max_epochs else f"{group.epoch + 1}, after the end"
