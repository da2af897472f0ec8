"""The report of a sweep as files, and its settings on the terminal."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lungtl.data.tables import write_table
from lungtl.evaluation.formatting import HEADLINES, format_estimate, format_number, markdown_table, text_table
from lungtl.runs.naming import differing
from lungtl.sweeps.parent import REPORT
from lungtl.sweeps.report.comparable import AUROC
from lungtl.sweeps.report.figures import draw_figures
from lungtl.sweeps.report.finished import Run
from lungtl.sweeps.report.page import write_page
from lungtl.sweeps.report.remarks import best_setting
from lungtl.sweeps.report.sweep import Sweep, comparison_rows, effect_rows, read_sweep, setting_rows

log = logging.getLogger(__name__)
PAGE = "report.html"
CAPTION = "test patients; 95 % intervals by bootstrap over patients, exact for rates of 0 and 1"


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> Path | None:
    """Write the comparison of a sweep's runs, and print its settings and the best one.

    Args:
        folder: of the sweep.
        out: where to write; None for `report/` in the sweep's folder.
        title: of the page and of README.md; None for the name of `out`, or of the sweep.

    Returns:
        Folder of the best setting's best run, both chosen by AUROC on validation; None without a best setting.

    Raises:
        LungtlError: no run finished, or a finished run lacks a file.
    """
    title = title or (folder if out is None else out).name
    out = out or folder / REPORT
    sweep = read_sweep(folder)
    log.info("%s\n%s", text_table(terminal_rows(sweep)), best_setting(sweep))
    out.mkdir(parents=True, exist_ok=True)
    write_table(run_table(sweep.runs), out / "table.csv")
    (out / "README.md").write_text(markdown(sweep.runs, title), encoding="utf-8")
    tables = {"settings": setting_rows(sweep), "comparisons": comparison_rows(sweep.comparisons),
              "effects": effect_rows(sweep.effects)}  # fmt: skip
    for name, rows in tables.items():
        write_table(pd.DataFrame(rows), out / f"{name}.csv")
    figures = draw_figures(sweep, out)
    (out / "table.tex").write_text(latex_table(sweep), encoding="utf-8")
    write_page(sweep, title, figures, out / PAGE)
    return best_run(sweep)


def scored_rows(runs: Sequence[Run]) -> list[tuple[str, dict[str, float], dict[str, Any]]]:
    """Name, monitored validation metrics and test scores of each run, then of the controls.

    Runs are named by the words that differ between their names. A control has one row if it is the same for all runs,
    else a row per run.
    """
    rows: list[tuple[str, dict[str, float], dict[str, Any]]] = []
    controls: dict[str, list[tuple[str, dict[str, Any]]]] = {}  # name -> name of the run, scores
    for run, name in zip(runs, differing([run.title for run in runs]), strict=True):
        monitored = {key: value for key, value in run.document.get("training", {}).items() if key.startswith("val/")}
        rows.append((name, monitored, run.document["bag"]))
        for control, scores in run.document["controls"].items():
            controls.setdefault(control, []).append((name, scores))
    for control, scored in controls.items():
        if all(scores == scored[0][1] for _, scores in scored):
            rows.append((f"control: {control}", {}, scored[0][1]))
        else:
            rows += [(f"control: {control} of {name}", {}, scores) for name, scores in scored]
    return rows


def run_table(runs: Sequence[Run]) -> pd.DataFrame:
    """table.csv, the rows of `scored_rows`: run, val/loss or val/auroc where logged, n, n_positive, and each metric."""
    rows: list[dict[str, Any]] = []
    for name, monitored, scores in scored_rows(runs):
        rows.append({"run": name, **monitored, "n": scores["n"], "n_positive": scores["n_positive"]})
        for metric, one in scores["metrics"].items():
            rows[-1] |= {metric: one["value"], f"{metric}_low": one["low"], f"{metric}_high": one["high"]}
    return pd.DataFrame(rows)


def markdown(runs: Sequence[Run], title: str) -> str:
    """README.md: the table, readable on a repository's page."""
    rows = [("run", "cases", "positive", *HEADLINES)]
    for name, _, scores in scored_rows(runs):
        estimates = (format_estimate(scores["metrics"][metric]) for metric in HEADLINES)
        rows.append((name, str(scores["n"]), str(scores["n_positive"]), *estimates))
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


def latex_table(sweep: Sweep) -> str:
    """A tabular of the compared settings, the best on validation first; requires the package booktabs."""
    names = list(sweep.factors) or ["setting"]
    rows = []
    for setting in sweep.tested.settings:
        scores = [setting.validation, *(setting.test[name] for name in HEADLINES)]
        rows.append([*(setting.levels or [setting.label]), str(len(setting.seeds)), *map(format_estimate, scores)])
    columns = [*names, "seeds", "validation AUROC", *(f"test {title}" for title in HEADLINES.values())]
    style = pd.DataFrame(rows, columns=columns).style.hide(axis="index").format(escape="latex")
    aligned = "l" * len(names) + "r" * (len(columns) - len(names))
    table = style.format_index(escape="latex", axis="columns").to_latex(column_format=aligned, hrules=True)
    return f"% \\usepackage{{booktabs}}\n{table}".replace("±", r"$\pm$")


def best_run(sweep: Sweep) -> Path | None:
    """The folder of the best setting's run with the highest AUROC on validation."""
    tested = sweep.tested
    if tested.best is None or tested.validation is None:
        return None
    aurocs = tested.validation.values[:, AUROC]
    return tested.runs[max(tested.best.members, key=lambda run: float(aurocs[run]))].folder
