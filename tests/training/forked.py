"""Functions that run in a process of their own and may kill it.

A clean process that has imported what training needs forks the others: each begins in milliseconds, not after the ten
seconds of those imports.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any


class Forks:
    """The clean process; ends with the `with` block.

    Args:
        imports: modules that it imports before it forks.
    """

    def __init__(self, *imports: str) -> None:
        command = [sys.executable, "-m", "tests.training.forked", *imports]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

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

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self.process.communicate()


def serve(imports: list[str]) -> None:
    """Fork a process for each call that standard input names."""
    for name in imports:
        import_module(name)
    for line in sys.stdin:
        module, name, log, arguments = json.loads(line)
        function = getattr(import_module(module), name)
        child = os.fork()
        if child == 0:
            os._exit(_call(function, Path(log), arguments))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _call(function: Callable[..., object], log: Path, arguments: list[Any]) -> int:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(file, stream)
    try:
        function(*arguments)
    except SystemExit as error:
        return int(error.code or 0)
    except BaseException:  # as a process of its own would
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    serve(sys.argv[1:])
