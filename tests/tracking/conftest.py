from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lungtl.tracking.backend import DATABASE, open_client


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A local store's database, which takes seconds to create."""
    folder = tmp_path_factory.mktemp("empty")
    open_client(None, folder)
    return folder / DATABASE


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> None:
    """Gives `tmp_path` a local store."""
    shutil.copy(empty_store, tmp_path)
