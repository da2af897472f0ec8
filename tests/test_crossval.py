"""Arguments, exit codes and signals; whole cross-validations are in tests/commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lungtl.crossval import check_overrides
from lungtl.settings.errors import UsageError

FAKE_PYTHON = """\
#!/bin/sh
trap 'echo interrupted; kill $!; exit 130' INT
echo "$@"
{rest}
"""


def start(folder: Path, rest: str, *arguments: str) -> subprocess.Popen[str]:
    """Start crossval with a shell script in place of the training process."""
    script = folder / "python"
    script.write_text(FAKE_PYTHON.format(rest=rest))
    script.chmod(0o755)
    code = f"import sys; from lungtl import crossval; sys.executable = {str(script)!r}; crossval.main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *arguments], cwd=folder, stdout=subprocess.PIPE, text=True,
        env={**os.environ, "LUNGTL_DATA_DIR": str(folder)},
    )  # fmt: skip


@pytest.mark.parametrize(
    "override", ["split.fold=1", "split.kind=source", "+split.fold=0,1", "resume=x", "split.folds=3,5"]
)
def test_what_defines_a_cross_validation_cannot_be_overridden(override: str) -> None:
    with pytest.raises(UsageError) as error:
        check_overrides(["aggregator=mean", override])
    assert str(error.value).startswith(override)


def test_everything_else_can_be_overridden() -> None:
    check_overrides(["-m", "split.folds=7", "split.seed=0,1", "seed=0,1", "hydra/launcher=joblib", "experiments=x"])


@pytest.mark.parametrize(("rest", "code"), [("exit 0", 0), ("exit 1", 1), ("exit 2", 2), ("kill -9 $$", 137)])
def test_the_arguments_and_the_exit_code_are_passed_on(tmp_path: Path, rest: str, code: int) -> None:
    process = start(tmp_path, rest, "seed=0,1", "--cfg", "job")
    out, _ = process.communicate(timeout=30)
    assert out == "-m lungtl.train --config-name=crossval -m split.kind=kfold seed=0,1 --cfg job\n"
    assert process.returncode == code


def test_ctrl_c_reaches_the_sweep_once(tmp_path: Path) -> None:
    process = start(tmp_path, "sleep 60 >/dev/null & wait")
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=30)
    assert out == "interrupted\n"
    assert process.returncode == 130
