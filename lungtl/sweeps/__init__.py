"""A sweep (`-m`) as one thing: its folder, the states of its children, its run in MLflow, and how it goes on."""

import os

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # must be set before a launcher starts Ray
