"""Size, colours and saving of all figures. No pyplot, hence neither global state nor a display."""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# 800 pixels wide; at 600, as in a README, 10 points are still 13 pixels high.
DPI = 125
WIDTH_INCHES = 6.4

# Okabe & Ito (2008): distinguishable with every common colour blindness.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#777777"

MODEL = BLUE
CONTROLS = (VERMILLION, GREEN, PURPLE, ORANGE)
"""Colours of the controls, in their order; they repeat when there are more."""


def new_figure(height_inches: float) -> Figure:
    """An empty figure, 800 pixels wide, with automatic layout."""
    figure = Figure(figsize=(WIDTH_INCHES, height_inches), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def tidy(axes: Axes) -> None:
    """Remove the top and right spines and put a faint grid behind the data."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)


def write_centred(axes: Axes, text: str) -> None:
    """Write a text in the middle of otherwise empty axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", fontsize=13, color=GREY)


def save_pdf(figure: Figure, path: Path) -> Path:
    """Write a PDF of a figure that `save` has written, for papers, and return its path."""
    figure.savefig(path, format="pdf", metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return path


def save(figure: Figure, path: Path | str) -> Path:
    """Write a PNG and return its path, whose folder is created if missing; the same figure gives the same bytes."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    if (engine := figure.get_layout_engine()) is not None:  # otherwise savefig draws the figure twice
        engine.execute(figure)
        figure.set_layout_engine(None)
    # matplotlib would add its version, which makes files differ between machines for nothing.
    figure.savefig(target, format="png", dpi=DPI, metadata={"Software": None})
    return target
