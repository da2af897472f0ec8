from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from lungtl.tracking import tracker
from lungtl.tracking.backend import DATABASE, open_client
from lungtl.tracking.unsent import FILE
from tests.tracking.run_folder import recorded, run_in


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


class Switch:
    """Lets a number of requests reach MLflow; then raises for each until `limit` is None."""

    def __init__(self, limit: int | None, error: BaseException) -> None:
        self.limit, self.error, self.calls = limit, error, 0

    def wrap(self, client: Any) -> Any:
        switch = self

        class Client:
            def __getattr__(self, name: str) -> Any:
                if switch.limit is not None and switch.calls >= switch.limit:
                    raise switch.error
                switch.calls += 1
                return getattr(client, name)

        return Client()


@pytest.fixture
def switch(monkeypatch: pytest.MonkeyPatch) -> Switch:
    """Of every client that trackers open."""
    switch = Switch(None, MlflowException("no connection"))
    monkeypatch.setattr(tracker, "open_client", lambda *arguments: switch.wrap(open_client(*arguments)))
    return switch


@pytest.fixture(scope="session")
def data_dir(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    folder = tmp_path_factory.mktemp("data")
    shutil.copy(empty_store, folder)
    return folder


@pytest.fixture(scope="session")
def undisturbed(data_dir: Path) -> dict[str, Any]:
    whole = run_in(data_dir / "undisturbed", data_dir)
    assert not (data_dir / "undisturbed" / FILE).exists()
    return recorded(whole.client, whole.run_id)
