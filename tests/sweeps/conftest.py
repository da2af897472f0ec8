from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.forked import Forks
from tests.sweeps.search import app


@pytest.fixture(scope="session")
def forks() -> Iterator[Forks]:
    """Runs `app`: without torch, which reads the number of threads when it is imported."""
    modules = ("tests.hydra_once", "hydra.main", "lungtl.sweeps.jobs", "lungtl.sweeps.search.study", "optuna", "pandas")
    with Forks(*modules, environment=app.environment()) as forks:
        yield forks
