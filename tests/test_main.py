from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import lungtl
from lungtl.__main__ import COMMANDS, help_text, main

PACKAGE = Path(lungtl.__file__).parent


def test_help_lists_every_command_in_the_order_in_which_one_meets_them() -> None:
    listed = re.findall(r"^  (\w+) +\w", help_text(), flags=re.MULTILINE)
    assert listed == list(COMMANDS)
    assert listed[:5] == ["doctor", "download", "prepare", "train", "evaluate"]
    files = (*PACKAGE.glob("*.py"), *PACKAGE.glob("*/__main__.py"))
    runnable = [path for path in files if "__main__" in path.read_text()]
    found = {path.parent.name if path.name == "__main__.py" else path.stem for path in runnable} - {"lungtl"}
    assert found == set(COMMANDS)
    assert all(importlib.util.find_spec(f"lungtl.{name}") for name in COMMANDS)


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_help(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lungtl", *arguments])
    main()
    assert capsys.readouterr().out.rstrip("\n") == help_text()


def test_the_version_is_lungtls(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lungtl", "--version"])
    main()
    assert capsys.readouterr().out == f"lungtl {lungtl.__version__}\n"


def test_a_misspelt_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["lungtl", "trian", "seed=1"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: unknown command trian; did you mean train?\n"


def test_a_command_gets_the_arguments_behind_its_name(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "lungtl", "train", "agregator=max", f"data_dir={tmp_path}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: unknown key agregator; did you mean aggregator?\n"
