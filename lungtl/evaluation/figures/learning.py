"""Learning curves: what each epoch changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lungtl.evaluation.figures.canvas import BLUE, GREEN, GREY, ORANGE, PURPLE, VERMILLION, new_figure, tidy
from lungtl.evaluation.formatting import plural

if TYPE_CHECKING:
    import pandas as pd

PANELS = (
    ("loss", (("train/loss", "training", ORANGE), ("val/loss", "validation", BLUE))),
    ("validation AUROC", (("val/auroc", "AUROC", GREEN),)),
    ("learning rate of the head", (("lr", "learning rate", PURPLE),)),
)


def learning_curves(epochs: pd.DataFrame, best: int, unfrozen: Mapping[int, Sequence[str]]) -> Figure:
    """Draw loss, validation AUROC and learning rate over the epochs.

    Args:
        epochs: epoch, counted from 1, and the columns train/loss, val/loss, val/auroc, lr; NaN where undefined.
        best: the epoch whose weights were tested.
        unfrozen: epoch -> names of the groups that train from then on; the first epoch is not marked.

    Returns:
        The figure.
    """
    figure = new_figure(6.4)
    figure.suptitle(f"Learning curves: {plural(len(epochs), 'epoch')}, best epoch {best}", fontsize=11)
    later = {epoch: names for epoch, names in unfrozen.items() if 1 < epoch <= epochs["epoch"].max()}
    panels = figure.subplots(len(PANELS), 1, sharex=True, height_ratios=(3, 2, 1.3))
    for axes, (title, curves) in zip(panels, PANELS, strict=True):
        tidy(axes)
        for column, name, colour in curves:
            if column in epochs:
                axes.plot(epochs["epoch"], epochs[column], color=colour, marker="o", markersize=3, label=name)
        axes.axvline(best, color=GREY, linestyle="--", label="best epoch")
        for number, epoch in enumerate(later):
            axes.axvline(epoch, color=VERMILLION, linestyle=":", label="unfreezing" if number == 0 else None)
        axes.set_title(title, fontsize=10, loc="left")
        axes.margins(x=0.02)
    panels[1].set_ylim(-0.03, 1.03)
    panels[1].axhline(0.5, color=GREY, linewidth=0.8, linestyle=":")
    for epoch, names in later.items():
        shown = names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
        panels[0].annotate(
            shown, (epoch, 1), (2, -2), xycoords=("data", "axes fraction"), textcoords="offset points", rotation=90,
            va="top", fontsize=7, color=VERMILLION,
        )  # fmt: skip
    panels[0].legend(loc="best", fontsize=8, frameon=False)
    panels[-1].set_xlabel("epoch")
    panels[-1].xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure
