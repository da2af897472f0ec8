"""What a call of a sweep is going to do, said before it starts."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lungtl.settings.errors import UsageError
from lungtl.settings.keys import container_key
from lungtl.sweeps.state import Standing, children, read_state, standing


@dataclass(frozen=True)
class Planned:
    """A child, before the sweep starts.

    Attributes:
        folder: its own.
        overrides: of its command line.
        standing: from an earlier call.
    """

    folder: Path
    overrides: tuple[str, ...]
    standing: Standing


def grid(config: Any) -> list[Planned] | None:
    """The children that a sweep is going to start, in order.

    Args:
        config: that of the sweep, with Hydra's section.

    Returns:
        None where the sweeper decides on the way, as a search does.

    Raises:
        UsageError: the children would not be in the sweep's folder.
    """
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if config.hydra.sweeper["_target_"].rpartition(".")[2] != BasicSweeper.__name__:
        return None
    loader = GlobalHydra.instance().config_loader()
    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.params or {}).items()]
    parsed = OverridesParser.create(config_loader=loader).parse_overrides([*params, *config.hydra.overrides.task])
    (lines,) = BasicSweeper.split_arguments(parsed, None)
    sweep = Path(config.hydra.sweep.dir)
    planned = []
    for line in lines:
        composed = loader.load_sweep_config(config, line)
        if Path(composed.hydra.sweep.dir) != sweep:
            raise UsageError(
                f"{' '.join(line)}: all runs of a sweep are in one folder; give one data_dir and sweep.name"
            )
        folder = sweep.resolve() / container_key(composed)
        planned.append(Planned(folder, tuple(line), standing(folder)))
    return planned


def started_before(sweep: Path) -> list[Planned]:
    """The children that earlier calls began."""
    found = [(folder, read_state(folder)) for folder in children(sweep)]
    return [Planned(folder, state.overrides, standing(folder)) for folder, state in found if state is not None]


def print_plan(sweep: Path, planned: list[Planned], retry: bool) -> None:
    """Print to standard error what each child is and what becomes of it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lungtl.runs.naming import differing

    fates: dict[Standing, str] = {
        "new": "starts",
        "running": "left to the process that runs it",
        "killed": "goes on where it stopped",
        "finished": "skipped",
        "failed": "tried again" if retry else "skipped; sweep.retry=true tries it again",
    }
    counts = {key: sum(one.standing == key for one in planned) for key in fates}
    title = f"sweep {sweep.name}: {', '.join(f'{count} {key}' for key, count in counts.items() if count)}"
    view = Table("run", "so far", "now", "why it failed", title=title, title_justify="left")
    names = differing([" ".join(one.overrides) for one in planned]) if planned else []
    for name, one in zip(names, planned, strict=True):
        state = read_state(one.folder) if one.standing == "failed" else None
        cells = (name, one.standing, fates[one.standing], (state and state.error) or "")
        view.add_row(*map(Text, cells))  # as they are: [lung] is no markup
    Console(stderr=True, width=None if sys.stderr.isatty() else 140).print(view)
