"""`python -m lungtl.ui`: MLflow's UI for the runs of a data folder, on this machine only."""

from __future__ import annotations

import argparse
import os
import re
import socket
import sys

from lungtl.runs.folder import EXPERIMENT, data_dir_of
from lungtl.settings import command_line
from lungtl.settings.credentials import VARIABLE
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.typed import typed

HOST = "127.0.0.1"  # loopback: the UI has no passwords
KEYS = ("data_dir", "tracking.uri", "tracking.experiment", "port")


def main() -> None:
    """Start MLflow's server until Ctrl-C. If `tracking.uri` is a server, only print the address of its runs."""
    parser = argparse.ArgumentParser(
        prog=typed("ui"), description="Start MLflow's web interface, on this machine only."
    )
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help=f"one of {', '.join(KEYS)} (5000)")
    values = {}
    for override in parser.parse_args().overrides:
        key, separator, value = override.partition("=")
        if key not in KEYS or not separator:
            raise UsageError(f"unknown argument {override}; expected KEY=VALUE with one of {', '.join(KEYS)}")
        values[key] = value
    port = values.get("port", "5000")
    check_port(port)

    from lungtl.tracking.backend import ARTIFACTS, default_uri, experiment_id, is_server, open_client
    from lungtl.tracking.view import write_view

    data_dir = data_dir_of([f"data_dir={values['data_dir']}"] if "data_dir" in values else [])
    uri = values.get("tracking.uri") or os.environ.get(VARIABLE) or default_uri(data_dir)
    client = open_client(uri, data_dir)
    experiment = experiment_id(client, values.get("tracking.experiment", EXPERIMENT), uri, data_dir)
    path = write_view(client, experiment)
    if is_server(uri):
        address = re.sub("://.*@", "://", uri.rstrip("/"))  # the browser asks for the password
        print(f"MLflow on {address}{path}", file=sys.stderr)
        return
    print(f"MLflow on http://{HOST}:{port}{path} (Ctrl-C to stop)", file=sys.stderr)
    command = [
        sys.executable, "-m", "mlflow", "server", "--backend-store-uri", uri,
        "--default-artifact-root", (data_dir / ARTIFACTS).as_uri(),
        "--host", HOST, "--port", port,
        "--workers", "1",  # starts in a few seconds; four take 45
    ]  # fmt: skip
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # eight processes for language model jobs
    os.execv(sys.executable, command)


def check_port(port: str) -> None:
    """Raise if a port is invalid or in use: MLflow would exit with 0, or retry for ever."""
    if not port.isdigit() or not 1 <= int(port) <= 65535:
        raise UsageError(f"port={port} is not a port; expected a number from 1 to 65535")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(port)))
        except OSError as error:
            raise LungtlError(f"port={port} cannot be used ({error.strerror}); use another, e.g. port=5001") from error


if __name__ == "__main__":
    command_line.plain(main)
