"""`epochs.csv` in a run's folder: a row for each epoch, counted from 1, with its metrics and learning rate."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.data.store.files import whole_file
from lungtl.data.tables import write_table
from lungtl.runs.log import detail_level

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)
EPOCHS = "epochs.csv"


class EpochLines:
    """Logs a line for each epoch: `epoch 3/40  train loss 0.52  val loss 0.48  val AUROC 0.83  12 s  left 7:30`.

    Args:
        last: the highest number of epochs; early stopping may end training before.
        done: by an earlier attempt of a resumed run.
    """

    def __init__(self, last: int, done: int = 0) -> None:
        self.last, self.done, self.count = last, done, 0
        self.start = self.before = time.monotonic()

    def ended(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log an epoch, counted from 1; the time left is estimated from the epochs that this process trained."""
        now = time.monotonic()
        self.done, self.count = epoch, self.count + 1
        left = (self.last - epoch) * (now - self.start) / self.count
        titles = {"train/loss": "train loss", "val/loss": "val loss", "val/auroc": "val AUROC"}
        values = "  ".join(f"{title} {metrics[key]:.3f}" for key, title in titles.items() if key in metrics)
        log.log(
            detail_level(), "epoch %d/%d  %s  %s  left %s",
            epoch, self.last, values, _seconds(now - self.before), duration(left),
        )  # fmt: skip
        self.before = now


def duration(seconds: float) -> str:
    """'7:30', '1:07:30'."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


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
