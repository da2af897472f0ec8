"""Every command line in the README and docs/ is valid; see `lungtl.settings.checks.check`."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lungtl.__main__ import COMMANDS
from lungtl.settings import schema
from lungtl.settings.checks import check
from lungtl.settings.composing import unused_options
from lungtl.settings.folders import user_folders
from lungtl.settings.keys import STAMP

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "experiments" / "results" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCKS = [block for page in PAGES for block in re.findall(r"```sh\n(.+?)```", page.read_text(), flags=re.DOTALL)]
LINES = dict.fromkeys(line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines())
SPLIT = [words for line in LINES if (words := shlex.split(line, comments=True))]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


@pytest.mark.parametrize("words", [words for words in SPLIT if Path(words[0]).name == "lungtl"], ids=" ".join)
def test_lungtl(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(STAMP, "now")  # names predict's output
    monkeypatch.chdir(ROOT / "docs" / "example_lab")
    monkeypatch.syspath_prepend(ROOT / "docs" / "example_lab")
    command, arguments = words[1], words[2:]
    assert command in COMMANDS
    config = "TrainConfig" if command in ("crossval", "leak_demo") else f"{command.title()}Config"
    if not hasattr(schema, config):  # ui, doctor, ...
        return
    folders = user_folders(arguments)
    overrides = [word for word in arguments if "=" in word]
    overrides += unused_options(command, overrides, folders)
    multirun = "-m" in arguments or command == "crossval"
    check(command, getattr(schema, config), overrides, multirun, folders)


@pytest.mark.parametrize("words", [words for words in SPLIT if words[0] == "make"], ids=" ".join)
def test_make(words: list[str]) -> None:
    assert words[1] in TARGETS


def test_the_pages_have_commands() -> None:
    assert len(SPLIT) > 30
