"""`epochs.csv` in a run's folder: a row for each epoch, counted from 0, with its metrics and learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.data.store.files import whole_file
from lungtl.data.tables import write_table

if TYPE_CHECKING:
    import pandas as pd

EPOCHS = "epochs.csv"


def append_epoch(folder: Path, epoch: int, metrics: Mapping[str, float]) -> None:
    """Write an epoch's row; a resumed run that repeats an epoch replaces that row and all later ones."""
    import pandas as pd

    row = pd.DataFrame([{"epoch": epoch, **metrics}])
    earlier = read_epochs(folder)
    earlier = earlier[earlier["epoch"] < epoch]
    table = pd.concat([earlier, row]) if len(earlier) else row
    with whole_file(folder / EPOCHS, folder) as file:
        write_table(table, file)


def read_epochs(folder: Path) -> pd.DataFrame:
    """The epochs so far: epoch, then a column for each metric, NaN where undefined; no rows without the file.

    A last line that does not end was cut off, and is dropped.
    """
    import pandas as pd

    path = folder / EPOCHS
    complete = path.read_text(encoding="utf-8").rpartition("\n")[0] if path.is_file() else ""
    if not complete:
        return pd.DataFrame({"epoch": pd.Series(dtype="int64")})
    return pd.read_csv(StringIO(complete), engine="python")  # pandas 2 with its C engine rounds floats
