"""A run's results: a few lines on the terminal, and all tables in `summary.txt`."""

from __future__ import annotations

import csv
import io
import logging
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungtl.evaluation.formatting import (
    INTERVALS,
    Rows,
    format_estimate,
    headlines,
    rows_for_table,
    rows_of_covariates,
    rows_of_localisation,
    rows_of_points,
)
from lungtl.runs.folder import PREDICTIONS

log = logging.getLogger(__name__)
SUMMARY = "summary.txt"
WIDTH = 140  # of summary.txt
MOST_LINES = 12  # that a run ends with


def print_summary(document: dict[str, Any], folder: Path, next_steps: list[str], *, verbose: bool = False) -> None:
    """Print the results, the folder and what to type next.

    Args:
        document: the content of metrics.json.
        folder: of the results.
        next_steps: commands, the most useful first; those beyond `MOST_LINES` are omitted.
        verbose: print every table, those of summary.txt, instead of the headlines.
    """
    lines = [tables(document, width=_width())] if verbose else headlines(document)
    if document["bag"]["n"] == 1:
        lines.append(_single_case(folder, document))
    label = 13  # as wide as that of the headlines without controls of longer names
    lines.append(f"{'folder':<{label}}{folder}")
    fitting = next_steps if verbose else next_steps[: max(1, MOST_LINES - len(lines))]
    lines += [f"{'' if number else 'next':<{label}}{step}" for number, step in enumerate(fitting)]
    log.info("%s", "\n".join(lines))


def write_summary(document: dict[str, Any], folder: Path) -> None:
    """Write summary.txt: every table of an evaluation."""
    (folder / SUMMARY).write_text(tables(document, WIDTH), encoding="utf-8")


def tables(document: dict[str, Any], width: int) -> str:
    """Every table of an evaluation as text, `width` characters wide."""
    console = Console(file=io.StringIO(), markup=False, emoji=False, width=width)
    title, *notes = headlines(document)
    console.print(_table(rows_for_table(document), title, INTERVALS))
    if notes and notes[0].startswith("omitted"):
        console.print(notes[0])
    if covariates := rows_of_covariates(document):
        part = document["with_covariates"]
        console.print(_table(covariates, f"with covariates: {part['scores']['n']} cases, {part['n_unknown']} unknown"))
    if points := rows_of_points(document):
        console.print(_table(points, "decisions at thresholds chosen on the validation split"))
    if weights := rows_of_localisation(document):
        found = document["localisation"]
        nodules = f"{found['n_nodule_slices']} of {found['n_slices']} slices with a nodule"
        console.print(_table(weights, f"slice weights: {found['n']} cases, {nodules}"))
    if document["slice"] is not None:
        auroc = document["slice"]["metrics"]["auroc"]
        console.print(f"slices, malignant versus the rest: AUROC {format_estimate(auroc, reasons=True)}")
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _single_case(folder: Path, document: dict[str, Any]) -> str:
    with (folder / PREDICTIONS).open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    calibrated = f" (calibrated {float(row['calibrated']):.3f})" if row["calibrated"] else ""
    point = document["operating_points"].get("youden")
    threshold = document["bag"]["threshold"] if point is None else point["threshold"]
    decision = "positive" if float(row["probability"]) >= threshold else "negative"
    label = "malignant" if row["label"] == "1" else "not malignant"
    return f"probability  {float(row['probability']):.3f}{calibrated}, {decision} at {threshold:.3f}; label: {label}"


def _width() -> int:
    return Console(stderr=True, markup=False, emoji=False).width if sys.stderr.isatty() else WIDTH


def _table(rows: Rows, title: str, caption: str | None = None) -> Table:
    table = Table(title=Text(title), caption=caption, title_justify="left")
    for column in rows[0]:
        table.add_column(Text(column), no_wrap=column == rows[0][0])
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table
