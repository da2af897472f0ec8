"""`epochs.csv`: each epoch's metrics and learning rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def append_epoch(folder: Path, epoch: int, metrics: Mapping[str, float]) -> None:
    """Write an epoch's row; the branch `tracking` has the real one."""
