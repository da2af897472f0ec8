"""Runs that are known by their tags, so that there is one of each: a sweep's, and each child's of a sweep.

A process that is killed after MLflow created a run, and before it could write the id down, finds the run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl import __version__
from lungtl.settings.errors import LungtlError
from lungtl.tracking.backend import experiment_id, open_client, reason, store_errors
from lungtl.tracking.tracker import git_tags

if TYPE_CHECKING:
    from lungtl.settings.schema import TrackingConfig

PARENT, KEY, FOLDER = "mlflow.parentRunId", "lungtl.config_key", "lungtl.folder"


def run_of(config: TrackingConfig, data_dir: Path, name: str, identity: Mapping[str, str]) -> str:
    """The id of the run with these tags; creates it.

    Args:
        config: which store and experiment.
        data_dir: where a local store lies.
        name: of a new run.
        identity: tags that no other run of the experiment has together.

    Raises:
        LungtlError: MLflow cannot be reached.
    """
    client = open_client(config.uri, data_dir)
    try:
        experiment = experiment_id(client, config.experiment, config.uri, data_dir)
        wanted = " and ".join(f'tags.`{key}` = "{value}"' for key, value in identity.items())
        found = client.search_runs([experiment], wanted, max_results=1)
        if found:
            return str(found[0].info.run_id)
        tags = {"mlflow.source.name": "lungtl", "lungtl.version": __version__, **git_tags(), **identity}
        return str(client.create_run(experiment, tags=tags, run_name=name).info.run_id)
    except store_errors() as error:
        raise LungtlError(f"MLflow does not open the run ({reason(error)}); mend it, or tracking=none") from error
