"""Self-contained HTML pages: their common style and tables, and how a template becomes one file."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

HERE = Path(__file__).parent
STYLE = HERE / "page.css"


@dataclass(frozen=True)
class Cell:
    """A cell of a table."""

    text: str  # plain text; the template escapes it
    sort: float | None = None  # the number to sort by; None where it is sorted by its text or, for a number, is missing
    number: bool = False  # whether it is set as a number
    span: int = 1  # columns
    link: str = ""  # a relative address


Row = Sequence[Cell]


@dataclass(frozen=True)
class Table:
    """A table."""

    head: Row  # names of the columns, set like their cells
    rows: Sequence[Row]  # cells
    foot: Sequence[Row] = ()  # rows that stay at the bottom when the others are sorted
    best: int | None = None  # index of the highlighted row
    sortable: bool = True  # whether clicking a column's name sorts by it


def render(template: Path, images: Mapping[str, Path | bytes], style: Path | None = None, **data: Any) -> str:
    """A self-contained page.

    Args:
        template: uses the variables below, and the macros of tables.html.j2.
        images: name -> PNG, or its file; base64 in the variable `images`.
        style: a file that is added to the common style; both are in `style`, their hash in `style_hash`.
        data: further variables.
    """
    environment = Environment(
        loader=FileSystemLoader([template.parent, HERE]), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    css = "".join(path.read_text(encoding="utf-8") for path in (STYLE, style) if path is not None)
    encoded = {
        name: base64.b64encode(png if isinstance(png, bytes) else png.read_bytes()).decode()
        for name, png in images.items()
    }
    page: str = environment.get_template(template.name).render(
        style=Markup(css), style_hash=csp_hash(css), images=encoded, **data
    )
    return page


def csp_hash(text: str) -> str:
    """The hash by which a Content-Security-Policy allows an inline style or script."""
    return base64.b64encode(sha256(text.encode()).digest()).decode()
