"""CSV files of results: text that a spreadsheet would run as a formula is escaped when written, restored when read.

A cell that starts with `=`, `+`, `-`, `@`, a tab or a carriage return, unless it is a number, gets a leading
apostrophe, and so does one that starts with an apostrophe: removing one leading apostrophe restores every cell. See
https://owasp.org/www-community/attacks/CSV_Injection.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

FORMULA = re.compile(r"'|(?![+-]?\d+\.?\d*(e[+-]?\d+)?\Z)[=+\-@\t\r]", re.IGNORECASE)
IDS = ("bag_id", "patient_id")


def escape(text: str) -> str:
    """The text as it is written to a CSV file."""
    return f"'{text}" if FORMULA.match(text) else text


def unescape(text: str) -> str:
    """The text that `escape` was given."""
    return text.removeprefix("'")


def write_table(table: pd.DataFrame, target: str | PathLike[str] | IO[bytes]) -> None:
    """Write a table as CSV without its index; text, and the names of columns, are escaped."""
    _map_text(table, escape).rename(columns=lambda name: escape(str(name))).to_csv(target, index=False)


def read_table(path: str | PathLike[str], missing: Mapping[str, Sequence[str]] | None = None) -> pd.DataFrame:
    """Read a file of `write_table`.

    Args:
        path: of the file.
        missing: column -> texts that mean NaN; no others do, since an id may be "NA".
    """
    import pandas as pd

    table = pd.read_csv(path, dtype=dict.fromkeys(IDS, str), keep_default_na=False, na_values=missing)
    return _map_text(table, unescape)


def _map_text(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    from pandas.api.types import is_numeric_dtype

    changed = {
        str(name): [change(cell) if isinstance(cell, str) else cell for cell in table[name]]
        for name in table
        if not is_numeric_dtype(table[name])
    }
    return table.assign(**changed)
