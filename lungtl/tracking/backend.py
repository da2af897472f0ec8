"""Reach the MLflow store, and create a local one safely."""

from __future__ import annotations

import logging
import os
import re
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lungtl.settings.errors import LungtlError, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
ANSWER_S = 5  # a server says something within this, or counts as unreachable when a run starts
ENVIRONMENT = {
    # MLflow's own wait for minutes at each call; what cannot be sent is kept and sent later (spool.py)
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # of a large artifact that the server passes on to its own store
    "PGCONNECT_TIMEOUT": str(ANSWER_S),
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # our commands print their result there, and nothing else
}


def default_uri(data_dir: Path) -> str:
    """The SQLite store in the data folder."""
    return f"sqlite:///{data_dir / DATABASE}"


def shown(uri: str) -> str:
    """The URI without the password that it may hold."""
    return re.sub(r"://[^/@]*@", "://***@", uri)


def store_errors() -> tuple[type[Exception], ...]:
    """What is raised when a store cannot be reached, is locked, is full, or refuses what it is sent."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def reason(error: Exception) -> str:
    """An error's first line, cut to a readable length."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return shown(lines[0])[:200]


def open_client(uri: str | None, data_dir: Path) -> MlflowClient:
    """Connect to a tracking store.

    A fresh database is created by one process at a time: MLflow migrates its schema on first contact, and two
    migrations at once destroy each other.

    Args:
        uri: sqlite:///FILE, postgresql://..., http://HOST:PORT; None: the SQLite store in the data folder.
        data_dir: the data folder.

    Raises:
        LungtlError: the database's driver is not installed.
        Unreachable: the store cannot be reached.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from mlflow import MlflowClient

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # each tells of every failed call what spool.py tells once
    for name in ("urllib3.connectionpool", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = uri or default_uri(data_dir)
    try:
        _ask(uri)
        with _alone(uri, data_dir):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except ImportError as error:  # SQLAlchemy's driver of this kind of database
        raise LungtlError(
            f"tracking.uri={shown(uri)} needs the package {error.name}; pip install it, or tracking=none"
        ) from error
    except store_errors() as error:
        raise Unreachable(
            f"tracking.uri={shown(uri)} cannot be used ({reason(error)}); mend it, or tracking=none"
        ) from error
    return client


def _ask(uri: str) -> None:
    """Raise unless the server or the database answers anything; MLflow's own first call waits for minutes."""
    import requests
    import sqlalchemy

    if uri.startswith("sqlite:"):
        return
    if not is_server(uri):
        with sqlalchemy.create_engine(uri).connect():
            return
    try:
        requests.head(uri, timeout=ANSWER_S)
    except requests.Timeout as error:
        raise OSError(f"no answer within {ANSWER_S} s") from error
    except requests.ConnectionError as error:
        raise OSError("no connection") from error


def is_server(uri: str) -> bool:
    """True for an MLflow server, False for a database."""
    return uri.startswith(("http://", "https://"))


def _alone(uri: str, data_dir: Path) -> AbstractContextManager[Any]:
    """A lock beside a local database, or in the data folder for one elsewhere; a server migrates itself."""
    if is_server(uri):
        return nullcontext()
    database = Path(uri.removeprefix("sqlite:///")) if uri.startswith("sqlite:///") else data_dir / "mlflow"
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock")


def experiment_id(client: MlflowClient, name: str, uri: str | None, data_dir: Path) -> str:
    """The experiment's id; creates it, its artifacts in the data folder unless a server keeps them.

    Raises:
        LungtlError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        place: dict[str, Any] = {
            "tags": {"mlflow.experimentKind": "custom_model_development"}
        }  # the UI's training view
        if uri is None or not is_server(uri):
            place["artifact_location"] = (data_dir / ARTIFACTS).as_uri()
        try:
            return str(client.create_experiment(name, **place))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise LungtlError(f"tracking.experiment={name} was deleted in MLflow; restore it there or give another name")
    return str(found.experiment_id)
