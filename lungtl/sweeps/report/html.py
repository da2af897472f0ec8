"""HTML in pieces: text is escaped here and nowhere else; nothing is fetched from elsewhere."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: what is shown, not escaped.
        sort: what it is sorted by; None where that is the text or, in a column of numbers, there is none.
        span: columns.
    """

    text: str
    sort: float | None = None
    span: int = 1


Row = Sequence[Cell | str]


def paragraph(text: str, css: str = "") -> str:
    """A paragraph of plain text."""
    return f"<p{_class(css)}>{escape(text)}</p>"


def heading(text: str) -> str:
    """A heading inside a section."""
    return f"<h3>{escape(text)}</h3>"


def listing(items: Iterable[str], css: str = "") -> str:
    """A list of plain texts."""
    return f"<ul{_class(css)}>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>"


def table(
    head: Sequence[str],
    rows: Sequence[Row],
    *,
    foot: Sequence[Row] = (),
    numbers: Sequence[int] = (),
    chosen: int | None = None,
    sortable: bool = True,
) -> str:
    """A table.

    Args:
        head: names of the columns.
        rows: cells.
        foot: rows that stay below, however the others are sorted.
        numbers: columns that are set as numbers.
        chosen: the row that is marked.
        sortable: whether a click on a column's name sorts by it.
    """
    names = "".join(
        f'<th scope="col"{_class("number" if i in numbers else "")}>'
        + (f'<button type="button">{escape(name)}</button>' if sortable else escape(name))
        + "</th>"
        for i, name in enumerate(head)
    )
    body = "".join(_row(row, numbers, "chosen" if i == chosen else "") for i, row in enumerate(rows))
    below = f"<tfoot>{''.join(_row(row, numbers) for row in foot)}</tfoot>" if foot else ""
    css = _class("sortable" if sortable else "")
    return f'<div class="wide"><table{css}><thead><tr>{names}</tr></thead><tbody>{body}</tbody>{below}</table></div>'


def image(png: Path, text: str) -> str:
    """A PNG inside the page, and what it shows for who cannot see it."""
    data = base64.b64encode(png.read_bytes()).decode()
    return f'<figure><img src="data:image/png;base64,{data}" alt="{escape(text)}"></figure>'


def section(name: str, title: str, *parts: str) -> str:
    """A part of the page, which `#name` links to."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{"".join(parts)}</section>'


def data_block(name: str, value: Any) -> str:
    """JSON for the script; `<` is written so that no text can end the block."""
    text = json.dumps(value).replace("<", "\\u003c")
    return f'<script type="application/json" id="{name}">{text}</script>'


def page(title: str, body: str) -> str:
    """The whole file: only its own style and script, known by their hash, run; nothing is loaded."""
    style, script = ((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
<h1>{escape(title)}</h1>
{body}
<script>{script}</script>
</body>
</html>
"""


def _row(row: Row, numbers: Sequence[int], css: str = "") -> str:
    cells, column = "", 0
    for one in row:
        cell = one if isinstance(one, Cell) else Cell(one)
        number = column in numbers and cell.span == 1
        sort = f' data-sort="{"" if cell.sort is None else repr(cell.sort)}"' if number or cell.sort is not None else ""
        span = f' colspan="{cell.span}"' if cell.span > 1 else ""
        cells += f"<td{_class('number' if number else '')}{sort}{span}>{escape(cell.text)}</td>"
        column += cell.span
    return f"<tr{_class(css)}>{cells}</tr>"


def _class(css: str) -> str:
    return f' class="{css}"' if css else ""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}'"
