"""Functions and commands that run in a process of their own and may kill it.

A clean process that has imported what training needs forks the others: each begins in milliseconds, not after the ten
seconds of those imports.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

CLOSED_PORT = "http://127.0.0.1:9"  # nobody listens on the discard port: the hub cannot be reached
SECONDS = 240
"""After so many a command that has not ended is ended."""


def isolated(home: Path) -> dict[str, str]:
    """A command's environment variables: no settings of the user's, and no network.

    Args:
        home: of the hub's client.
    """
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LUNGTL_", "HF_", "MLFLOW_"))}
    return {**kept, "HF_ENDPOINT": CLOSED_PORT, "HF_HOME": str(home / "hf")}


class Forks:
    """The clean process; ends with the `with` block.

    Args:
        imports: modules that it imports before it forks.
        environment: its environment variables; None: those of this process.
    """

    def __init__(self, *imports: str, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "tests.forked", *imports]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def run(self, function: Callable[..., object], log: Path, *arguments: Any) -> int:
        """Call `function(*arguments)` in a fork of it; the exit code, negative for the signal that ended it.

        Args:
            function: of a module.
            log: where standard output and error go.
            arguments: that JSON can hold.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        call = [function.__module__, function.__name__, str(log), arguments]
        self.process.stdin.write(f"{json.dumps(call)}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def command(
        self, name: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """`python -m NAME ARGUMENTS` in a fork of it.

        Args:
            name: of a module that it has not imported.
            arguments: of the command.
            folder: to run it in.
            environment: variables in addition to those of the clean process.
        """
        with tempfile.TemporaryDirectory() as streams:
            log, out, err = (Path(streams) / stream for stream in ("log", "out", "err"))
            code = self.run(_command, log, name, arguments, str(folder), dict(environment or {}), str(out), str(err))
            return subprocess.CompletedProcess([name, *arguments], code, out.read_text(), err.read_text())

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.communicate()


def serve(imports: list[str]) -> None:
    """Fork a process for each call that standard input names."""
    for name in imports:
        import_module(name)
    gc.collect()
    gc.freeze()  # or the first collection of each fork copies all memory
    for line in sys.stdin:
        module, name, log, arguments = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(_call(module, name, Path(log), arguments))  # nothing is torn down: that takes two seconds
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _call(module: str, name: str, log: Path, arguments: list[Any]) -> int:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        getattr(import_module(module), name)(*arguments)
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # as a process of its own would
        traceback.print_exc()
        return 1
    finally:
        threading._shutdown()  # type: ignore[attr-defined]  # these two as the interpreter does at its end
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


def _command(name: str, arguments: list[str], folder: str, environment: dict[str, str], out: str, err: str) -> None:
    for stream, path in enumerate((os.devnull, out, err)):
        file = os.open(path, os.O_WRONLY | os.O_CREAT if stream else os.O_RDONLY)
        os.dup2(file, stream)
    os.environ |= environment
    sys.path[1:1] = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    os.chdir(folder)
    signal.alarm(SECONDS)
    sys.argv[1:] = arguments
    runpy.run_module(name, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    serve(sys.argv[1:])
