"""Order of the tests, which of them share an xdist worker, and no deadlines on a busy machine."""

from __future__ import annotations

from typing import Any

import hypothesis
import pytest

hypothesis.settings.register_profile("lungtl", deadline=None)
hypothesis.settings.load_profile("lungtl")
COMMANDS, DATA = ("tests/commands/",), ("tests/sources/", "tests/benchmarks/", "tests/docs/")
UNITS = (COMMANDS, DATA)
"""Folders whose tests one xdist worker runs: some share runs, others LIDC-IDRI's annotations, which take seconds."""


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
