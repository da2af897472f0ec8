"""Where Hydra looks for sweepers: `hydra/sweeper=optuna`."""

from __future__ import annotations

from lungtl.sweeps.search.sweeper import SearchSweeper


class OptunaSweeper(SearchSweeper):
    """Hydra only instantiates plugin classes that are defined in this package."""
