"""The examples of docs/api.md: both run, and predict what the run itself predicted."""

from __future__ import annotations

import json
import os
import re
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NOTEBOOK = json.loads((DOCS / "api_example.ipynb").read_text())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder of both, so that they share dataset and features."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(os, "cpu_count", lambda: 1)  # the phantom is not written by processes of its own
    yield tmp_path_factory.mktemp("api")
    monkeypatch.undo()


@pytest.mark.slow
def test_script(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(folder)
    runpy.run_path(str(DOCS / "api_example.py"), run_name="__main__")
    (run,) = (folder / "data" / "runs").iterdir()
    expected = pd.read_csv(run / "predictions.csv")["probability"][0]
    found = re.search(r"^probability of malignancy: (.+)$", capsys.readouterr().out, re.MULTILINE)
    assert found is not None
    assert float(found[1]) == pytest.approx(expected, abs=6e-4)


@pytest.mark.slow
def test_notebook(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    mpl.use("agg")
    names: dict[str, Any] = {}
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    expected = names["result"].predictions["probability"][0]
    assert names["prediction"].probability == pytest.approx(expected, abs=1e-5)


def test_notebook_is_valid_and_committed_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in NOTEBOOK["cells"]}) == len(NOTEBOOK["cells"])
    for cell in NOTEBOOK["cells"]:
        required = {"cell_type", "id", "metadata", "source"}
        if cell["cell_type"] == "code":
            required |= {"outputs", "execution_count"}
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
        assert cell.keys() == required
