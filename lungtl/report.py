"""`python -m lungtl.report sweep=FOLDER`: the runs of a sweep side by side, beside the trivial predictors."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl import cli
from lungtl.config import ReportConfig
from lungtl.errors import LungtlError
from lungtl.runs import RECORD, read_record

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "brier")


def run(config: ReportConfig) -> None:
    """Write table.csv and README.md, and print their folder."""
    out = config.out or config.sweep
    table = collect(config.sweep)
    out.mkdir(parents=True, exist_ok=True)
    table.to_csv(out / "table.csv", index=False)
    (out / "README.md").write_text(markdown(table, config.title or out.name))
    print_table(table)
    print(out)


def collect(folder: Path) -> pd.DataFrame:
    """One row a finished run, the best validation loss first, then one a control.

    Returns:
        run (what differs between their names), n, n_positive, and for each metric its value, low and high; val/loss
        or val/auroc where runs logged it.

    Raises:
        LungtlError: there is no finished run below the folder.
    """
    import pandas as pd

    rows: list[dict[str, Any]] = []
    controls: dict[str, dict[str, Any]] = {}
    for path in sorted(folder.glob("*/metrics.json"), key=lambda p: (len(p.parent.name), p.parent.name)):
        document = json.loads(path.read_text())
        record = read_record(path.parent) if (path.parent / RECORD).is_file() else {}
        monitored = {k: v for k, v in document.get("training", {}).items() if k.startswith("val/")}
        rows.append({"run": record.get("name", path.parent.name), **monitored, **_cells(document["bag"])})
        for name, scores in document["controls"].items():
            controls.setdefault(name, {"run": f"control: {name}", **_cells(scores)})
    if not rows:
        raise LungtlError(f"no finished run below {folder}; give the folder that train -m printed")
    for row, name in zip(rows, differing([str(row["run"]) for row in rows]), strict=True):
        row["run"] = name
    return pd.DataFrame([*rows, *controls.values()])


def differing(names: list[str]) -> list[str]:
    """Names less the words that all share; as they are where nothing differs."""
    words = [name.split() for name in names]
    shared = set(words[0]).intersection(*words)
    return [" ".join(w for w in own if w not in shared) or name for own, name in zip(words, names, strict=True)]


def markdown(table: pd.DataFrame, title: str) -> str:
    """README.md: the table, readable on a repository's page."""
    head = ["run", "bags", "positive", *SHOWN]
    lines = [f"# {title}", "", f"| {' | '.join(head)} |", "|" + " --- |" * len(head)]
    for row in table.to_dict("records"):
        lines.append(f"| {row['run']} | {row['n']} | {row['n_positive']} | {' | '.join(_shown(row))} |")
    lines += [
        "",
        "Test patients only; 95 % intervals by bootstrap over patients. Written by `python -m lungtl.report`.",
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
        log.info("sweep: %s\n  next: make ui, or python -m lungtl.report sweep=%s", folder, folder)


def print_table(table: pd.DataFrame) -> None:
    """Print to standard error."""
    from rich.console import Console
    from rich.table import Table

    view = Table("run", *SHOWN, caption="test patients; 95 % intervals by bootstrap over patients")
    for row in table.to_dict("records"):
        view.add_row(str(row["run"]), *_shown(row))
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(view)


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


if __name__ == "__main__":
    cli.main("report", ReportConfig, run)
