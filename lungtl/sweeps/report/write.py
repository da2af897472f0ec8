"""The report of a sweep as files, and its table on the terminal."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.formatting import HEADLINES, format_estimate, markdown_table
from lungtl.runs.folder import METRICS, RECORD, read_record
from lungtl.runs.naming import differing
from lungtl.settings.errors import LungtlError
from lungtl.sweeps.parent import REPORT
from lungtl.sweeps.report.finished import is_finished, no_finished_run, run_folders

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
PAGE = "report.html"
CAPTION = "test patients; 95 % intervals by bootstrap over patients, exact for rates of 0 and 1"


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> list[Path]:
    """Write the comparison of a sweep's runs.

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
    import pandas as pd

    from lungtl.sweeps.report.figures import draw_figures
    from lungtl.sweeps.report.page import write_page
    from lungtl.sweeps.report.sweep import comparison_rows, effect_rows, read_sweep, setting_rows

    title = title or (folder if out is None else out).name
    out = out or folder / REPORT
    table, sweep = run_table(folder), read_sweep(folder)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    (out / "README.md").write_text(markdown(table, title))
    rows = {"settings": setting_rows(sweep), "comparisons": comparison_rows(sweep.comparisons),
            "effects": effect_rows(sweep.effects)}  # fmt: skip
    for name, own in rows.items():
        pd.DataFrame(own).to_csv(out / f"{name}.csv", index=False)
    figures = draw_figures(sweep, out)
    write_page(sweep, title, figures, out / PAGE)
    return [out / PAGE, out / "README.md", out / "table.csv", *(out / f"{name}.csv" for name in rows),
            *figures.values()]  # fmt: skip


def run_table(folder: Path) -> pd.DataFrame:
    """One row per finished run, then the controls: one row each where all runs have the same, else one row per run.

    Returns:
        run (the words that differ between the runs' names), n, n_positive, and for each metric its value, low and
        high; val/loss or val/auroc where runs logged it.

    Raises:
        LungtlError: the folder has no finished run.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    controls: dict[str, list[tuple[int, dict[str, Any]]]] = {}  # name -> row of the run, scores
    for run in filter(is_finished, run_folders(folder)):
        document = json.loads((run / METRICS).read_text())
        record = read_record(run) if (run / RECORD).is_file() else {}
        monitored = {k: v for k, v in document.get("training", {}).items() if k.startswith("val/")}
        rows.append({"run": record.get("name", run.name), **monitored, **_cells(document["bag"])})
        for name, scores in document["controls"].items():
            controls.setdefault(name, []).append((len(rows) - 1, _cells(scores)))
    if not rows:
        raise no_finished_run(folder)
    for row, name in zip(rows, differing([str(row["run"]) for row in rows]), strict=True):
        row["run"] = name
    control_rows: list[dict[str, Any]] = []
    for name, scored in controls.items():
        if all(cells == scored[0][1] for _, cells in scored):
            control_rows.append({"run": f"control: {name}", **scored[0][1]})
        else:
            control_rows += [{"run": f"control: {name} of {rows[i]['run']}", **cells} for i, cells in scored]
    return pd.DataFrame([*rows, *control_rows])


def markdown(table: pd.DataFrame, title: str) -> str:
    """README.md: the table, readable on a repository's page."""
    rows = [("run", "cases", "positive", *HEADLINES)]
    for row in table.to_dict("records"):
        rows.append((str(row["run"]), str(row["n"]), str(row["n_positive"]), *_headline_texts(row)))
    caption = f"{CAPTION[0].upper()}{CAPTION[1:]}. Written by `python -m lungtl.report`."
    return "\n".join([f"# {title}", "", *markdown_table(rows), "", caption, ""])


def print_sweep(folder: Path) -> None:
    """Print the sweep's table, or that no run finished, to standard error."""
    try:
        print_table(run_table(folder))
    except LungtlError as error:
        log.error("%s", error)
    else:
        log.info("sweep: %s\n  next: open %s, or make ui", folder, folder / REPORT / PAGE)


def print_table(table: pd.DataFrame) -> None:
    """Print the table to standard error."""
    import sys

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table("run", *HEADLINES, caption=CAPTION)
    for row in table.to_dict("records"):
        view.add_row(Text(str(row["run"])), *map(Text, _headline_texts(row)))  # Text: brackets are not markup
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(view)


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
