"""The report of a sweep as files, and its settings on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from lungtl.data.tables import write_table
from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.formatting import HEADLINES, format_estimate, format_number, markdown_table, text_table
from lungtl.runs.naming import differing
from lungtl.sweeps.parent import REPORT
from lungtl.sweeps.report.comparable import AUROC
from lungtl.sweeps.report.figures import draw_figures
from lungtl.sweeps.report.finished import Run
from lungtl.sweeps.report.latex import latex_table
from lungtl.sweeps.report.page import write_page
from lungtl.sweeps.report.remarks import best_setting
from lungtl.sweeps.report.sweep import Sweep, comparison_rows, effect_rows, read_sweep, setting_rows

log = logging.getLogger(__name__)
PAGE = "report.html"
CAPTION = "test patients; 95 % intervals by bootstrap over patients, exact for rates of 0 and 1"


class Written(NamedTuple):
    """A report that was written."""

    files: list[Path]
    """report.html, README.md, their tables (table.csv, table.tex, settings.csv, ...) and figures."""
    best: Path | None
    """Folder of the best setting's best run, both chosen by AUROC on validation; None without a best setting."""


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> Written:
    """Write the comparison of a sweep's runs, and print its settings and the best one.

    Args:
        folder: of the sweep.
        out: where to write; None for `report/` in the sweep's folder.
        title: of the page and of README.md; None for the name of `out`, or of the sweep.

    Raises:
        LungtlError: no run finished, or a finished run lacks a file.
    """
    title = title or (folder if out is None else out).name
    out = out or folder / REPORT
    sweep = read_sweep(folder)
    table = run_table(sweep.runs)
    log.info("%s\n%s", text_table(terminal_rows(sweep)), best_setting(sweep).replace(" Test AUROC", "\nTest AUROC"))
    out.mkdir(parents=True, exist_ok=True)
    write_table(table, out / "table.csv")
    (out / "README.md").write_text(markdown(table, title), encoding="utf-8")
    tables = {"settings": setting_rows(sweep), "comparisons": comparison_rows(sweep.comparisons),
              "effects": effect_rows(sweep.effects)}  # fmt: skip
    for name, rows in tables.items():
        write_table(pd.DataFrame(rows), out / f"{name}.csv")
    figures = draw_figures(sweep, out)
    (out / "table.tex").write_text(latex_table(sweep), encoding="utf-8")
    write_page(sweep, title, figures, out / PAGE)
    files = [out / PAGE, out / "README.md", out / "table.csv", out / "table.tex",
             *(out / f"{name}.csv" for name in tables), *figures.values(),
             *(png.with_suffix(".pdf") for png in figures.values())]  # fmt: skip
    return Written(files, best_run(sweep))


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


def terminal_rows(sweep: Sweep) -> list[tuple[str, ...]]:
    """The terminal's table: the settings of the compared runs, the best on validation first, then the controls.

    Its columns are what differs between the settings, the number of seeds, and the AUROCs.
    """
    tested, names = sweep.tested, list(sweep.factors) or ["setting"]
    rows = [(*names, "seeds", "validation", "test AUROC")]
    for setting in tested.settings:
        levels = setting.levels or (setting.label,)
        validation = "" if setting.validation.value is None else format_number(setting.validation.value)
        rows.append((*levels, str(len(setting.seeds)), validation, format_estimate(setting.test["auroc"])))
    blank = [""] * (len(names) - 1)
    documents = [run.document["controls"] for run in tested.runs]
    for control in dict.fromkeys(name for controls in documents for name in controls):
        values = [controls[control]["metrics"]["auroc"]["value"] for controls in documents if control in controls]
        known = [value for value in values if value is not None]
        low, high = (format_number(end) for end in (min(known), max(known))) if known else ("undefined",) * 2
        rows.append((f"control: {control}", *blank, "", "", low if low == high else f"{low} to {high}"))
    return rows


def best_run(sweep: Sweep) -> Path | None:
    """The folder of the best setting's run with the highest AUROC on validation."""
    tested = sweep.tested
    if tested.best is None or tested.validation is None:
        return None
    aurocs = tested.validation.values[:, AUROC]
    return tested.runs[max(tested.best.members, key=lambda run: float(aurocs[run]))].folder


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
