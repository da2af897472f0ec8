"""Sweeps (`-m`): one folder, one parent run in MLflow, many runs that are skipped, resumed or retried on a rerun."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # must be set before a launcher starts Ray
