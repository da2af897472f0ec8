"""Where a run's data and its MLflow store are, as overrides of the next command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.runs.folder import data_dir_of
from lungtl.settings.typed import assigned
from lungtl.tracking.backend import hide_password

if TYPE_CHECKING:
    from lungtl.settings.schema import TrackingConfig

EXPERIMENT = "lungtl"
"""The default of tracking.experiment in conf/tracking/mlflow.yaml."""


def place_of_data(data_dir: Path) -> list[str]:
    """`data_dir=...`; empty if a command without it uses the same folder."""
    return [] if data_dir == data_dir_of([]) else [assigned("data_dir", data_dir)]


def places(data_dir: Path, tracking: TrackingConfig) -> list[str]:
    """`data_dir=... tracking.uri=... tracking.experiment=...`, those that differ from the defaults; no password."""
    found = place_of_data(data_dir)
    if tracking.enabled and tracking.uri is not None:
        found.append(assigned("tracking.uri", hide_password(tracking.uri)))
    if tracking.enabled and tracking.experiment != EXPERIMENT:
        found.append(assigned("tracking.experiment", tracking.experiment))
    return found
