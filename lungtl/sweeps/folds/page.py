"""The page of a cross-validation: pooled results first, the folds as their spread."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lungtl.evaluation.formatting import format_estimate, plural
from lungtl.evaluation.page import Cell, Table, render
from lungtl.runs.environment import ENVIRONMENT
from lungtl.runs.folder import METRICS, read_json
from lungtl.sweeps.folds.tables import EXPLANATION, Row, fold_rows, table_parts
from lungtl.sweeps.report.about import code, command, date

TEMPLATE = Path(__file__).parent / "page.html.j2"
PAGE = "report.html"
TEXTS = 1  # columns that are no numbers


def write_page(documents: list[dict[str, Any]], sweep: Path, pooled: Path) -> Path:
    """Write the page of the pooled repeats, and return its path.

    Args:
        documents: metrics.json of each repeat.
        sweep: the folder of the runs.
        pooled: gets the page; has a folder with roc.png for each repeat.
    """
    (head, *repeats), controls, averages = table_parts(documents)
    bag, folds = documents[0]["bag"], len(documents[0]["folds"]["auroc"]["values"])
    cases = f"{plural(bag['n'], 'case')} ({bag['n_positive']} positive) of {plural(bag['n_patients'], 'patient')}"
    text = render(
        TEMPLATE,
        {str(number): pooled / document["pooled"] / "roc.png" for number, document in enumerate(documents)},
        title=f"Cross-validation {sweep.name}",
        counts=f"{plural(folds, 'fold')}; every one of {cases} is tested once.",
        result=_result(documents, repeats),
        facts=_facts(documents, sweep),
        table=_table(head, repeats, controls),
        averages=_table(averages[0], averages[1:]) if averages else None,
        folds=_table(*_split(fold_rows(documents))),
        names=[f"{row[0]}, split seed {row[1]}, seed {row[2]}" for row in repeats],
        explanation=re.sub("[*`]", "", EXPLANATION).strip().split("\n\n"),
    )
    (pooled / PAGE).write_text(text, encoding="utf-8")
    return pooled / PAGE


def _facts(documents: list[dict[str, Any]], sweep: Path) -> dict[str, str]:
    """Title and text: data, command, code and date; what is unknown is omitted."""
    runs = [path.parent for path in sorted(sweep.glob(f"*/{METRICS}"))]
    environments = [read_json(run / ENVIRONMENT) for run in runs if (run / ENVIRONMENT).is_file()]
    found = {"data": str(documents[0]["store"]), "command": command(sweep, "crossval"), "code": code(environments),
             "date": date([run / METRICS for run in runs])}  # fmt: skip
    return {title: text for title, text in found.items() if text}


def _result(documents: list[dict[str, Any]], repeats: Sequence[Row]) -> list[str]:
    """The pooled AUROC of each repeat."""
    aurocs = [f"pooled AUROC {format_estimate(document['bag']['metrics']['auroc'])}" for document in documents]
    if len(aurocs) == 1:
        return [f"P{aurocs[0][1:]}"]
    return [f"{row[0]}, split seed {row[1]}, seed {row[2]}: {text}" for row, text in zip(repeats, aurocs, strict=True)]


def _split(rows: list[Row]) -> tuple[Row, list[Row]]:
    return rows[0], rows[1:]


def _table(head: Row, rows: Sequence[Row], foot: Sequence[Row] = ()) -> Table:
    """The first column as text, the others as numbers."""

    def cells(row: Row) -> list[Cell]:
        texts = [*row[:TEXTS], *(re.sub(r" (?=[\[(])|(?<=:) ", "\n", cell) for cell in row[TEXTS:])]
        return [Cell(text, number=i >= TEXTS) for i, text in enumerate(texts)]

    return Table(cells(head), [cells(row) for row in rows], [cells(row) for row in foot], sortable=False)
