"""Where Hydra looks for sweepers: `hydra/sweeper=optuna`."""

from __future__ import annotations

from lungtl.sweeps.search.sweeper import SearchSweeper


class OptunaSweeper(SearchSweeper):
    """Hydra instantiates no class of another package than this one."""
