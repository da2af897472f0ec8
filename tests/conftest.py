"""Order of the tests, which of them share an xdist worker, and no deadlines on a busy machine."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

import tests.hydra_once  # noqa: F401
from tests.forked import Forks, isolated

hypothesis.settings.register_profile("lungtl", deadline=None)
hypothesis.settings.load_profile("lungtl")
COMMANDS = ("tests/commands/", "tests/training/test_killed.py", "tests/test_wheel.py")
DATA = ("tests/sources/", "tests/benchmarks/", "tests/docs/", "tests/test_experiments.py")
SWEEPS = ("tests/sweeps/test_launchers.py", "tests/sweeps/search/test_search.py")
EXPORT = ("tests/export/",)
UNITS = (COMMANDS, DATA, SWEEPS, EXPORT)
"""What one xdist worker runs together: some share runs, others LIDC-IDRI's annotations, a process that forks, or what
torch.onnx imports."""


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _unit(nodeid: str) -> str:
    """What one worker runs together: the folders of a unit, otherwise a module."""
    module = _module(nodeid)
    return next((unit[0] for unit in UNITS if module.startswith(unit)), module)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that all workers end at about the same time."""
    slow = {_module(item.nodeid) for item in items if item.get_closest_marker("slow")}

    units = [unit[0] for unit in UNITS]

    def position(item: pytest.Item) -> int:
        unit = _unit(item.nodeid)
        return units.index(unit) if unit in units else len(units) + (unit not in slow)

    items.sort(key=position)


def pytest_collection_finish() -> None:
    """All that the tests import is there to stay: the garbage collector need not look at it again."""
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """`--dist loadscope` with the units above."""
    if config.getoption("dist") != "loadscope":
        return None
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return _unit(nodeid)

    return Scheduling(config, log)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Forks]:
    """Runs commands, and trainings that are killed, in forks of a process that has imported what they need."""
    with Forks("tests.warm", environment=isolated(tmp_path_factory.mktemp("home"))) as forks:
        yield forks
