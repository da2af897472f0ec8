"""Connect to the MLflow store, create a local one safely, and turn MLflow's errors into one line with a remedy."""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

from filelock import FileLock

from lungtl.settings.credentials import check_credentials, hide_password
from lungtl.settings.errors import LungtlError, Unreachable

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"
SQLITE = "sqlite:///"
UNRESERVED = "".join(chr(code) for code in range(32, 127) if chr(code) not in "%?#")
"""What a path may contain that is not escaped in a URI: SQLAlchemy decodes the rest."""
CONNECT_TIMEOUT_S = 5  # when a run starts, a server that takes longer counts as unreachable
ENVIRONMENT = {
    # MLflow's defaults retry each call for minutes; what could not be sent is sent later instead (unsent.py)
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",  # long enough for a large artifact that the server forwards
    "PGCONNECT_TIMEOUT": str(CONNECT_TIMEOUT_S),
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # standard output holds our commands' results only
}
REMEDIES = {
    "UNAUTHENTICATED": "the MLflow server refused the login; set MLFLOW_TRACKING_USERNAME and "
    "MLFLOW_TRACKING_PASSWORD, or use tracking=none",
    "PERMISSION_DENIED": "the MLflow server denied access; ask its administrator for permission, or use tracking=none",
}


def default_uri(data_dir: Path) -> str:
    """The SQLite store in the data folder."""
    return sqlite_uri(data_dir / DATABASE)


def sqlite_uri(file: Path) -> str:
    """The URI of an SQLite store."""
    return f"{SQLITE}{quote(str(file), safe=UNRESERVED)}"


def sqlite_file(uri: str) -> Path | None:
    """The file of an SQLite store; None for other stores."""
    return Path(unquote(uri.removeprefix(SQLITE).partition("?")[0])) if uri.startswith(SQLITE) else None


def is_server(uri: str) -> bool:
    """True for an MLflow server, False for a database."""
    return uri.startswith(("http://", "https://"))


def store_errors() -> tuple[type[Exception], ...]:
    """Exceptions raised when a store is unreachable, locked or full, or rejects a request."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    return MlflowException, SQLAlchemyError, OSError


def reason(error: Exception) -> str:
    """The first line of an error, without passwords and at most 200 characters long."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return hide_password(lines[0])[:200]


@contextmanager
def readable_errors(action: str, error_type: type[LungtlError] = LungtlError) -> Iterator[None]:
    """Turn a store's error into one line: the action that failed, why, and what to do."""
    try:
        yield
    except store_errors() as error:
        code = str(getattr(error, "error_code", ""))
        problem = REMEDIES.get(code) or f"{reason(error)}; fix the cause, or use tracking=none"
        raise error_type(f"{action}: {problem}") from error


def open_client(uri: str | None, data_dir: Path) -> MlflowClient:
    """Connect to a tracking store.

    One process at a time creates a new database: MLflow migrates its schema on first contact, and two concurrent
    migrations corrupt it.

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
    # these repeat, for every failed call, what the tracker reports once
    for name in ("urllib3.connectionpool", "mlflow.store.db.utils"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    uri = uri or default_uri(data_dir)
    check_credentials(uri)
    name = f"tracking.uri={hide_password(uri)}"
    try:
        with readable_errors(f"{name} cannot be used", Unreachable):
            _check_connection(uri)
            with _creation_lock(uri, data_dir):
                _create_aside(uri)
                client = MlflowClient(tracking_uri=uri)
                client.search_experiments(max_results=1)
    except ImportError as error:  # SQLAlchemy's driver for this kind of database
        raise LungtlError(f"{name} requires the package {error.name}; pip install it, or use tracking=none") from error
    return client


def _check_connection(uri: str) -> None:
    """Raise unless the server or the database answers; MLflow's own first call would wait for minutes."""
    import requests
    import sqlalchemy

    if uri.startswith("sqlite:"):
        return
    if not is_server(uri):
        with sqlalchemy.create_engine(uri).connect():
            return
    try:
        requests.head(uri, timeout=CONNECT_TIMEOUT_S)
    except requests.Timeout as error:
        raise OSError(f"no answer within {CONNECT_TIMEOUT_S} s") from error
    except requests.ConnectionError as error:
        raise OSError("no connection") from error


def _creation_lock(uri: str, data_dir: Path) -> AbstractContextManager[Any]:
    """A lock next to a local database, in the data folder for a remote one; a server migrates its own database."""
    if is_server(uri):
        return nullcontext()
    database = sqlite_file(uri) or data_dir / "mlflow"
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock")


def _create_aside(uri: str) -> None:
    """Create a new SQLite database under another name and rename it, so that a kill leaves a whole one or none."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    database = sqlite_file(uri)
    if database is None or database.exists():
        return
    for left in database.parent.glob(f"{database.name}.new-*"):  # by a killed process
        left.unlink()
    # A name of its own each time, since a failed attempt of this process may still have its file open.
    aside = database.with_name(f"{database.name}.new-{secrets.token_hex(4)}")
    untyped: Any = SqlAlchemyStore
    store = untyped(sqlite_uri(aside), (database.parent / ARTIFACTS).as_uri())
    store.engine.dispose()
    aside.rename(database)


def experiment_id(client: MlflowClient, name: str, uri: str | None, data_dir: Path) -> str:
    """The experiment's id. Creates a missing one; its artifacts go to the data folder unless a server stores them.

    Raises:
        LungtlError: the experiment was deleted.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        options: dict[str, Any] = {
            "tags": {"mlflow.experimentKind": "custom_model_development"}  # selects the UI's training view
        }
        if uri is None or not is_server(uri):
            options["artifact_location"] = (data_dir / ARTIFACTS).as_uri()
        try:
            return str(client.create_experiment(name, **options))
        except MlflowException:  # another process has just created it
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise LungtlError(f"tracking.experiment={name} was deleted in MLflow; restore it or choose another name")
    return str(found.experiment_id)
