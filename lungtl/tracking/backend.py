"""Reach the MLflow store, and create a local one safely."""

from __future__ import annotations

import logging
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from lungtl.errors import LungtlError

if TYPE_CHECKING:
    from mlflow import MlflowClient

DATABASE = "mlflow.db"
ARTIFACTS = "mlflow-artifacts"


def default_uri(data_dir: Path) -> str:
    """The SQLite store in the data folder."""
    return f"sqlite:///{data_dir / DATABASE}"


def open_client(uri: str | None, data_dir: Path) -> MlflowClient:
    """Connect to a tracking store.

    A fresh SQLite store is created by one process at a time: MLflow migrates its schema on first contact, and two
    migrations at once destroy each other.

    Raises:
        LungtlError: the store cannot be reached.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = uri or default_uri(data_dir)
    try:
        with _alone(uri):
            client = MlflowClient(tracking_uri=uri)
            client.search_experiments(max_results=1)
    except (MlflowException, SQLAlchemyError, OSError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise LungtlError(f"tracking.uri={uri} cannot be used ({reason}); mend it, or tracking=none") from error
    return client


def _alone(uri: str) -> AbstractContextManager[Any]:
    """A lock beside a local database; nothing for a server, which migrates itself."""
    if not uri.startswith("sqlite:///"):
        return nullcontext()
    database = Path(uri.removeprefix("sqlite:///"))
    database.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(f"{database}.lock")


def experiment_id(client: MlflowClient, name: str, uri: str | None, data_dir: Path) -> str:
    """The experiment's id; creates it, its artifacts beside a local store."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        place: dict[str, Any] = {
            "tags": {"mlflow.experimentKind": "custom_model_development"}
        }  # the UI's training view
        if uri is None or uri.startswith("sqlite:///"):
            place["artifact_location"] = (data_dir / ARTIFACTS).as_uri()
        try:
            return str(client.create_experiment(name, **place))
        except MlflowException:  # another process was faster
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise LungtlError(f"tracking.experiment={name} was deleted in MLflow; restore it there or give another name")
    return str(found.experiment_id)
