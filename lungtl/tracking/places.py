"""Where a run's data and its MLflow store are, as overrides of the next command."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.runs.folder import place_of_data
from lungtl.settings.credentials import has_password
from lungtl.settings.typed import assigned

if TYPE_CHECKING:
    from lungtl.settings.sections import TrackingConfig

EXPERIMENT = "lungtl"
"""The default of tracking.experiment in conf/tracking/mlflow.yaml."""


def places(data_dir: Path, tracking: TrackingConfig) -> list[str]:
    """`data_dir=... tracking.uri=... tracking.experiment=...`, those that differ from the defaults; no password."""
    found = place_of_data(data_dir)
    if tracking.enabled and tracking.uri is not None and not has_password(tracking.uri):  # from the environment
        found.append(assigned("tracking.uri", tracking.uri))
    if tracking.enabled and tracking.experiment != EXPERIMENT:
        found.append(assigned("tracking.experiment", tracking.experiment))
    return found
