"""`python -m lungtl.ui`: MLflow's UI on the runs of a data folder, on this machine only."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from lungtl.runs.folder import data_dir_of
from lungtl.settings import command_line, composing
from lungtl.settings.errors import LungtlError, UsageError

HOST = "127.0.0.1"  # loopback: the UI has no passwords
KEYS = ("data_dir", "tracking.uri", "tracking.experiment", "port")


def main() -> None:
    """Start MLflow's server with one worker, which is up in a few seconds; Ctrl-C ends it.

    Of a server that runs elsewhere, only print where its runs are.
    """
    parser = argparse.ArgumentParser(prog="python -m lungtl.ui", description="Open the MLflow UI on loopback.")
    parser.add_argument("overrides", nargs="*", metavar=" | ".join(f"{key}=..." for key in KEYS))
    values = {}
    for override in parser.parse_args().overrides:
        key, separator, value = override.partition("=")
        if key not in KEYS or not separator:
            raise UsageError(f"unknown argument {override}; wanted KEY=VALUE with one of {', '.join(KEYS)}")
        values[key] = value
    port = values.get("port", "5000")
    check_port(port)

    from lungtl.tracking.backend import ARTIFACTS, default_uri, experiment_id, is_server, open_client
    from lungtl.tracking.view import write_view

    data_dir = data_dir_of([f"data_dir={values['data_dir']}"] if "data_dir" in values else [])
    uri = values.get("tracking.uri") or default_uri(data_dir)
    client = open_client(uri, data_dir)  # creates a fresh store safely, or says what is wrong
    experiment = experiment_id(client, values.get("tracking.experiment", _experiment()), uri, data_dir)
    path = write_view(client, experiment)
    if is_server(uri):
        print(f"MLflow on {uri.rstrip('/')}{path}", file=sys.stderr)
        return
    print(f"MLflow on http://{HOST}:{port}{path} (Ctrl-C ends it)", file=sys.stderr)
    artifacts = (data_dir / ARTIFACTS).as_uri()
    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri, "--default-artifact-root",
               artifacts, "--host", HOST, "--port", port, "--workers", "1"]  # fmt: skip
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes for jobs of language models
    os.execv(sys.executable, command)


def _experiment() -> str:
    """The one that runs are recorded in unless told otherwise."""
    from omegaconf import OmegaConf

    return str(OmegaConf.load(composing.conf_dir() / "tracking" / "mlflow.yaml").experiment)


def check_port(port: str) -> None:
    """Raise for what is no port, or one that is taken: MLflow would end with 0, or try for ever."""
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"port={port} is no port; wanted a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(port)))
        except OSError as error:
            raise LungtlError(f"port={port} cannot be used ({error.strerror}); give another, e.g. port=5001") from error


if __name__ == "__main__":
    command_line.plain(main)
