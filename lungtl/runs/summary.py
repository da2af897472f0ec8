"""A run's scores as tables on the terminal."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from lungtl.evaluation.formatting import (
    INTERVALS,
    Rows,
    rows_for_table,
    rows_of_covariates,
    rows_of_localisation,
    rows_of_points,
)

WIDTH = 140  # where standard error is no terminal


def print_summary(document: dict[str, Any], folder: Path, next_steps: list[str]) -> None:
    """Print the scores, the folder and what to type next to standard error."""
    console = Console(stderr=True, markup=False, emoji=False, width=None if sys.stderr.isatty() else WIDTH)
    bag = document["bag"]
    title = f"{document['split']}: {bag['n']} cases of {bag['n_patients']} patients, {bag['n_positive']} positive"
    if left_out := document.get("patients_left_out"):
        title += f" ({left_out} patients omitted who trained the model or chose its epoch)"
    console.print(_table(rows_for_table(document), title, INTERVALS))
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
        auroc = next(row for row in rows_for_table(document, "slice") if row[0] == "auroc")[1]
        console.print(f"slices, malignant versus the rest: AUROC {auroc}")
    console.print(f"results: {folder}", soft_wrap=True)
    for step in next_steps:
        console.print(f"  {step}", soft_wrap=True, highlight=False)


def _table(rows: Rows, title: str, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left")
    for column in rows[0]:
        table.add_column(column, no_wrap=column == rows[0][0])
    for row in rows[1:]:
        table.add_row(*row)
    return table
