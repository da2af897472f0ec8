"""The comparison of a sweep's runs as files, on the terminal and in MLflow."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.runs.folder import RECORD, read_record
from lungtl.runs.naming import differing
from lungtl.settings.errors import LungtlError

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.settings.schema import TrackingConfig
    from lungtl.sweeps.report.sweep import Sweep

log = logging.getLogger(__name__)
REPORT, PAGE = "report", "report.html"
CAPTION = "test patients; 95 % intervals by bootstrap over patients, exact for rates of 0 and 1"
SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "brier")


def write_report(folder: Path, out: Path | None = None, title: str | None = None) -> list[Path]:
    """Write the comparison of a sweep's runs.

    Args:
        folder: of the sweep.
        out: where to write; None: `report/` in the sweep's folder.
        title: of the page and of README.md; None: the name of `out`, or of the sweep.

    Returns:
        What was written: report.html, README.md, the tables behind it (table.csv, settings.csv, comparisons.csv,
        effects.csv) and its figures.

    Raises:
        LungtlError: no run finished, or a finished run's files do not fit each other.
    """
    import pandas as pd

    from lungtl.sweeps.report.page import write_page
    from lungtl.sweeps.report.sweep import comparison_rows, effect_rows, read_sweep, setting_rows

    heading = title or (folder if out is None else out).name
    out = out or folder / REPORT
    table, sweep = collect(folder), read_sweep(folder)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    (out / "README.md").write_text(markdown(table, heading))
    rows = {"settings": setting_rows(sweep), "comparisons": comparison_rows(sweep.comparisons),
            "effects": effect_rows(sweep.effects)}  # fmt: skip
    tables = [out / f"{name}.csv" for name in rows]
    for path, of in zip(tables, rows.values(), strict=True):
        pd.DataFrame(of).to_csv(path, index=False)
    figures = _draw(sweep, out)
    write_page(sweep, heading, figures, out / PAGE)
    return [out / PAGE, out / "README.md", out / "table.csv", *tables, *figures.values()]


def upload(written: list[Path], sweep: Path, tracking: TrackingConfig, data_dir: Path) -> None:
    """Put a report into the sweep's own run in MLflow; nothing where it has none, a warning where that fails.

    Args:
        written: its files.
        sweep: the folder.
        tracking: of the store that holds the run.
        data_dir: where a local store lies.
    """
    from lungtl.sweeps.parent import parent_of

    run_id = parent_of(sweep)
    if run_id is None or not tracking.enabled:
        return

    from lungtl.tracking.backend import DATABASE, open_client, reason, store_errors

    failures: tuple[type[Exception], ...] = (LungtlError, *store_errors())
    try:
        if tracking.uri is None and not (data_dir / DATABASE).is_file():  # one that is opened is created
            raise LungtlError(f"there is no {data_dir / DATABASE}")
        client = open_client(tracking.uri, data_dir)
        for path in written:
            client.log_artifact(run_id, str(path), REPORT)
    except failures as error:
        log.warning("MLflow does not have this report (%s); give the sweep's tracking.uri= or data_dir=", reason(error))
    else:
        log.info("MLflow: the sweep's run %s has this report", run_id[:8])


def collect(folder: Path) -> pd.DataFrame:
    """One row a finished run, then the controls: one row each where all runs have the same, else one row a run.

    Returns:
        run (what differs between their names), n, n_positive, and for each metric its value, low and high; val/loss
        or val/auroc where runs logged it.

    Raises:
        LungtlError: there is no finished run below the folder.
    """
    import pandas as pd

    from lungtl.runs.folder import METRICS
    from lungtl.sweeps.report.finished import children, is_finished, nothing_finished

    rows: list[dict[str, Any]] = []
    controls: dict[str, list[tuple[int, dict[str, Any]]]] = {}  # name -> which run, its scores
    for child in filter(is_finished, children(folder)):
        document = json.loads((child / METRICS).read_text())
        record = read_record(child) if (child / RECORD).is_file() else {}
        monitored = {k: v for k, v in document.get("training", {}).items() if k.startswith("val/")}
        rows.append({"run": record.get("name", child.name), **monitored, **_cells(document["bag"])})
        for name, scores in document["controls"].items():
            controls.setdefault(name, []).append((len(rows) - 1, _cells(scores)))
    if not rows:
        raise nothing_finished(folder)
    for row, name in zip(rows, differing([str(row["run"]) for row in rows]), strict=True):
        row["run"] = name
    below: list[dict[str, Any]] = []
    for name, found in controls.items():
        if all(cells == found[0][1] for _, cells in found):
            below.append({"run": f"control: {name}", **found[0][1]})
        else:
            below += [{"run": f"control: {name} of {rows[number]['run']}", **cells} for number, cells in found]
    return pd.DataFrame([*rows, *below])


def markdown(table: pd.DataFrame, title: str) -> str:
    """README.md: the table, readable on a repository's page."""
    head = ["run", "bags", "positive", *SHOWN]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in table.to_dict("records"):
        name = str(row["run"]).replace("|", "\\|")  # which would begin another cell
        lines.append(f"| {name} | {row['n']} | {row['n_positive']} | {' | '.join(_shown(row))} |")
    lines += [
        "",
        f"{CAPTION[0].upper()}{CAPTION[1:]}. Written by `python -m lungtl.report`.",
        "",
    ]
    return "\n".join(lines)


def print_sweep(folder: Path) -> None:
    """The sweep's table on standard error, or that nothing finished."""
    try:
        print_table(collect(folder))
    except LungtlError as error:
        log.error("%s", error)
    else:
        log.info("sweep: %s\n  next: open %s, or make ui", folder, folder / REPORT / PAGE)


def print_table(table: pd.DataFrame) -> None:
    """Print to standard error."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    view = Table("run", *SHOWN, caption=CAPTION)
    for row in table.to_dict("records"):
        view.add_row(Text(str(row["run"])), *map(Text, _shown(row)))  # brackets in a name are no markup
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(view)


def _draw(sweep: Sweep, out: Path) -> dict[str, Path]:
    """Write the figures: name -> path; those that would be empty are left out."""
    from lungtl.evaluation.figures import save
    from lungtl.sweeps.report.comparisons import computed_controls
    from lungtl.sweeps.report.figures import cost_figure, effects_figure, intervals, roc_overlay
    from lungtl.sweeps.report.sweep import COMPARED_COSTS, cost

    tested = sweep.tested
    drawn = {"intervals": intervals(tested), "roc": roc_overlay(tested, computed_controls(tested))}
    known = [effect for effect in sweep.effects if effect.pairs]
    if known:
        drawn["effects"] = effects_figure(known)
    costs = {name: [cost(tested, setting, key) for setting in tested.settings] for key, name in COMPARED_COSTS.items()}
    recorded = {name: values for name, values in costs.items() if any(values)}
    if recorded:
        drawn["cost"] = cost_figure(tested, recorded)
    return {name: save(figure, out / f"{name}.png") for name, figure in drawn.items()}


def _cells(scores: dict[str, Any]) -> dict[str, Any]:
    cells = {"n": scores["n"], "n_positive": scores["n_positive"]}
    for name, estimate in scores["metrics"].items():
        cells |= {name: estimate["value"], f"{name}_low": estimate["low"], f"{name}_high": estimate["high"]}
    return cells


def _shown(row: dict[Any, Any]) -> list[str]:
    """'0.873 [0.810, 0.920]' for each of the shown metrics; 'undefined' where there is no value."""
    cells = []
    for name in SHOWN:
        value, low, high = (row[f"{name}{suffix}"] for suffix in ("", "_low", "_high"))
        if value is None or value != value:
            cells.append("undefined")
        else:
            cells.append(f"{value:.3f}" + (f" [{low:.3f}, {high:.3f}]" if low is not None and low == low else ""))
    return cells
