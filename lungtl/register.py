"""`python -m lungtl.register run=RUN`: register a run's model in MLflow, under a name and an alias."""

from __future__ import annotations

import json
import logging

from lungtl.bundle import CONFIG
from lungtl.runs.folder import bundle_of, find_model, places
from lungtl.settings import command_line
from lungtl.settings.credentials import hide_password
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import RegisterConfig
from lungtl.settings.typed import assigned, typed

log = logging.getLogger(__name__)


def run(config: RegisterConfig) -> None:
    """Register a new version, and print its URI."""
    folder = find_model(config.run, config.data_dir)
    bundle = bundle_of(folder)
    run_id = json.loads((bundle / CONFIG).read_text(encoding="utf-8"))["provenance"]["mlflow_run_id"]
    if run_id is None or not config.tracking.enabled:
        raise LungtlError(f"{folder} was not tracked, so it has no MLflow run; train it without tracking=none")

    from lungtl.tracking.backend import default_uri, open_client
    from lungtl.tracking.registry import register_bundle

    client = open_client(config.tracking.uri, config.data_dir)
    version = register_bundle(client, run_id, bundle, config.name, config.alias)
    uri = f"models:/{config.name}@{config.alias}"
    log.info("%s is version %d of %s", run_id, version, config.name)
    tracking_uri = hide_password(config.tracking.uri or default_uri(config.data_dir))
    log.info("next, its page under Models: %s", typed("ui", *places(config.data_dir, config.tracking)))
    log.info("or its probability of scans: %s", typed("predict", assigned("model", folder), "input=FOLDER"))
    log.info('or in Python: mlflow.set_tracking_uri("%s"); mlflow.pyfunc.load_model("%s")', tracking_uri, uri)
    print(uri)


if __name__ == "__main__":
    command_line.main("register", RegisterConfig, run)
