"""The report of a sweep as files, and its table on the terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungtl.data.tables import write_table
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.formatting import HEADLINES, format_estimate, markdown_table
from lungtl.runs.naming import differing
from lungtl.sweeps.parent import REPORT
from lungtl.sweeps.report.figures import draw_figures
from lungtl.sweeps.report.finished import Run
from lungtl.sweeps.report.page import write_page
from lungtl.sweeps.report.sweep import comparison_rows, effect_rows, read_sweep, setting_rows

PAGE = "report.html"
CAPTION = "test patients; 95 % intervals by bootstrap over patients, exact for rates of 0 and 1"


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> list[Path]:
    """Write the comparison of a sweep's runs, and print its table.

    Args:
        folder: of the sweep.
        out: where to write; None for `report/` in the sweep's folder.
        title: of the page and of README.md; None for the name of `out`, or of the sweep.

    Returns:
        The written files: report.html, README.md, their tables (table.csv, settings.csv, comparisons.csv,
        effects.csv) and figures.

    Raises:
        LungtlError: no run finished, or a finished run lacks a file.
    """
    title = title or (folder if out is None else out).name
    out = out or folder / REPORT
    sweep = read_sweep(folder)
    table = run_table(sweep.runs)
    print_table(table)
    out.mkdir(parents=True, exist_ok=True)
    write_table(table, out / "table.csv")
    (out / "README.md").write_text(markdown(table, title), encoding="utf-8")
    tables = {"settings": setting_rows(sweep), "comparisons": comparison_rows(sweep.comparisons),
              "effects": effect_rows(sweep.effects)}  # fmt: skip
    for name, rows in tables.items():
        write_table(pd.DataFrame(rows), out / f"{name}.csv")
    figures = draw_figures(sweep, out)
    write_page(sweep, title, figures, out / PAGE)
    return [out / PAGE, out / "README.md", out / "table.csv", *(out / f"{name}.csv" for name in tables),
            *figures.values()]  # fmt: skip


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """One row per finished run, then the controls: one row each where all runs have the same, else one row per run.

    Returns:
        run (the words that differ between the runs' names), n, n_positive, and for each metric its value, low and
        high; val/loss or val/auroc where runs logged it.
    """
    rows: list[dict[str, Any]] = []
    controls: dict[str, list[tuple[str, dict[str, Any]]]] = {}  # name -> name of the run, scores
    for run, name in zip(runs, differing([run.title for run in runs]), strict=True):
        monitored = {key: value for key, value in run.document.get("training", {}).items() if key.startswith("val/")}
        rows.append({"run": name, **monitored, **_cells(run.document["bag"])})
        for control, scores in run.document["controls"].items():
            controls.setdefault(control, []).append((name, _cells(scores)))
    for control, scored in controls.items():
        if all(cells == scored[0][1] for _, cells in scored):
            rows.append({"run": f"control: {control}", **scored[0][1]})
        else:
            rows += [{"run": f"control: {control} of {name}", **cells} for name, cells in scored]
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame, title: str) -> str:
    """README.md: the table, readable on a repository's page."""
    rows = [("run", "cases", "positive", *HEADLINES)]
    for row in table.to_dict("records"):
        rows.append((str(row["run"]), str(row["n"]), str(row["n_positive"]), *_headline_texts(row)))
    caption = f"{CAPTION[0].upper()}{CAPTION[1:]}. Written by `python -m lungtl.report`."
    return "\n".join([f"# {title}", "", *markdown_table(rows), "", caption, ""])


def print_table(table: pd.DataFrame) -> None:
    """Print the table to standard error."""
    view = Table("run", *HEADLINES, caption=CAPTION)
    for row in table.to_dict("records"):
        view.add_row(Text(str(row["run"])), *map(Text, _headline_texts(row)))  # Text: brackets are not markup
    Console(stderr=True, markup=False, emoji=False, width=None if sys.stderr.isatty() else 140).print(view)


def _cells(scores: dict[str, Any]) -> dict[str, Any]:
    cells = {"n": scores["n"], "n_positive": scores["n_positive"]}
    for name, estimate in scores["metrics"].items():
        cells |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    return cells


def _headline_texts(row: dict[Any, Any]) -> list[str]:
    """'0.873 [0.810, 0.920]' for each headline metric; 'undefined' where there is no value."""
    texts = []
    for name in HEADLINES:
        numbers = (row[f"{name}{suffix}"] for suffix in ("", "_low", "_high"))
        value, low, high = (None if number is None or number != number else float(number) for number in numbers)
        texts.append(format_estimate(Estimate(value, low, high, "no interval" if low is None else None)))
    return texts
