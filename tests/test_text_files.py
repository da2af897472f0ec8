"""Text files are UTF-8 whatever the locale."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import lungtl

FILES = sorted(Path(lungtl.__file__).parent.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_text_is_read_and_written_with_an_encoding(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        if node.func.attr in ("read_text", "write_text"):
            assert any(keyword.arg == "encoding" for keyword in node.keywords), f"{path.name}:{node.lineno}"
