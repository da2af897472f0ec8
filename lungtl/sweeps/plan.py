"""The plan of a sweep, printed before it starts."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from lungtl.runs.naming import differing
from lungtl.settings.errors import UsageError
from lungtl.settings.keys import container_key
from lungtl.sweeps.state import Status, read_state, read_states, status_of

log = logging.getLogger(__name__)


def compose_grid(config: Any) -> list[tuple[tuple[str, ...], DictConfig]] | None:
    """The overrides and the composed config of each run that a sweep is going to start, in order.

    None if the sweeper chooses the runs as it goes, as a search does. A run outside the sweep's folder is refused.
    """
    if config.hydra.sweeper["_target_"].rpartition(".")[2] != BasicSweeper.__name__:
        return None
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *config.hydra.overrides.task])
    (lines,) = BasicSweeper.split_arguments(parsed, None)
    runs = [(tuple(line), loader.load_sweep_config(config, line)) for line in lines]
    for line, composed in runs:
        if composed.hydra.sweep.dir != config.hydra.sweep.dir:
            raise UsageError(f"{' '.join(line)}: runs of a sweep share a folder; give one data_dir and sweep.name")
    return runs


def plan_runs(sweep: Path, runs: Iterable[tuple[tuple[str, ...], DictConfig]]) -> dict[Path, tuple[str, ...]]:
    """The folder of each run of `compose_grid` -> its overrides; datasets.json must have been written."""
    return {sweep / container_key(composed): line for line, composed in runs}


def started_before(sweep: Path) -> dict[Path, tuple[str, ...]]:
    """Likewise of the runs that earlier calls started."""
    return {folder: state.overrides for folder, state in read_states(sweep).items()}


def print_plan(sweep: Path, planned: Mapping[Path, tuple[str, ...]], retry: bool) -> None:
    """Print how many runs there are; if some were started before, each run, its status and what is done with it."""
    actions: dict[Status, str] = {
        "new": "starts",
        "running": "already running elsewhere; waited for",
        "killed": "resumes",
        "finished": "skipped",
        "failed": "retried" if retry else "skipped; sweep.retry=true retries it",
    }
    statuses = {folder: status_of(folder) for folder in planned}
    counts = {status: list(statuses.values()).count(status) for status in actions}
    title = f"sweep {sweep.name}: {', '.join(f'{count} {status}' for status, count in counts.items() if count)}"
    if counts["new"] == len(planned):
        log.info("%s: %s", title, sweep)
        return
    table = Table(title=title, title_justify="left")
    for column in ("run", "so far", "now", "why it failed"):
        table.add_column(column, overflow="fold")
    names = differing([" ".join(overrides) for overrides in planned.values()])
    for name, (folder, status) in zip(names, statuses.items(), strict=True):
        state = read_state(folder) if status == "failed" else None
        cells = (name, status, actions[status], (state and state.error) or "")
        table.add_row(*map(Text, cells))  # Text, since [lung] is not markup
    Console(stderr=True, markup=False, emoji=False, width=None if sys.stderr.isatty() else 140).print(table)
