"""Order of the tests, and which of them share an xdist worker."""

from __future__ import annotations

from typing import Any

import pytest

UNITS = ("tests/commands/", "tests/sources/")
"""Folders whose tests one xdist worker runs: they share runs, and the real data that are unpacked and read once."""


def _module(nodeid: str) -> str:
    return nodeid.partition("::")[0]


def _unit(nodeid: str) -> str:
    """What one worker runs together: a folder of `UNITS`, otherwise a module."""
    module = _module(nodeid)
    return next((folder for folder in UNITS if module.startswith(folder)), module)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, so that all workers end at about the same time."""
    slow = {_module(item.nodeid) for item in items if item.get_closest_marker("slow")}

    def position(item: pytest.Item) -> int:
        unit = _unit(item.nodeid)
        if unit in UNITS:
            return UNITS.index(unit)
        return len(UNITS) + (unit not in slow)

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
