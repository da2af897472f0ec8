"""The page of a cross-validation: pooled results first, the folds as their spread."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lungtl.evaluation.formatting import format_estimate, plural
from lungtl.evaluation.page import Cell, Table, render
from lungtl.sweeps.folds.tables import EXPLANATION, Row, fold_rows, table_parts
from lungtl.sweeps.report.about import command

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
        facts={"data": documents[0]["store"], **({"command": typed} if (typed := command(sweep, "crossval")) else {})},
        table=_table(head, repeats, controls),
        averages=_table(averages[0], averages[1:]) if averages else None,
        folds=_table(*_split(fold_rows(documents))),
        names=[f"{row[0]}, split seed {row[1]}, seed {row[2]}" for row in repeats],
        explanation=EXPLANATION.replace("*", "").strip().split("\n\n"),
    )
    (pooled / PAGE).write_text(text, encoding="utf-8")
    return pooled / PAGE


def _result(documents: list[dict[str, Any]], repeats: Sequence[Row]) -> list[str]:
    """The pooled AUROC of each repeat."""
    return [
        f"{row[0]}{f', split seed {row[1]}, seed {row[2]}' if len(repeats) > 1 else ''}: pooled AUROC "
        f"{format_estimate(document['bag']['metrics']['auroc'])}"
        for row, document in zip(repeats, documents, strict=True)
    ]


def _split(rows: list[Row]) -> tuple[Row, list[Row]]:
    return rows[0], rows[1:]


def _table(head: Row, rows: Sequence[Row], foot: Sequence[Row] = ()) -> Table:
    """The first column as text, the others as numbers."""

    def cells(row: Row) -> list[Cell]:
        texts = [*row[:TEXTS], *(re.sub(r" (?=[\[(])|(?<=:) ", "\n", cell) for cell in row[TEXTS:])]
        return [Cell(text, number=i >= TEXTS) for i, text in enumerate(texts)]

    return Table(cells(head), [cells(row) for row in rows], [cells(row) for row in foot], sortable=False)
