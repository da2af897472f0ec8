"""Cells that a spreadsheet would run as formulas are escaped in files, and read back unchanged."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lungtl.data.tables import escape, read_table, unescape, write_table

IDS = ["=cmd|'/C calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "'=1", "''", "NA", "a,b", '"=1"', "-5", "plain"]


@given(st.text())
def test_any_text_returns(text: str) -> None:
    assert unescape(escape(text)) == text
    assert not escape(text).startswith(("=", "@", "\t", "\r"))


@pytest.mark.parametrize("number", ["-5", "+1.5", "-1e-3", "-.5", "=1"])
def test_numbers_are_no_formulas(number: str) -> None:
    assert (escape(number) == number) is (number not in ("-.5", "=1"))  # a number without its zero is escaped


def test_ids_are_escaped_in_the_file_alone(tmp_path: Path) -> None:
    table = pd.DataFrame({"bag_id": IDS, "patient_id": IDS[::-1], "probability": [-0.5] * len(IDS)})
    write_table(table, tmp_path / "predictions.csv")
    text = (tmp_path / "predictions.csv").read_text()
    assert "\n'=cmd" in text
    assert "\n=cmd" not in text
    assert ",-0.5\n" in text
    read = read_table(tmp_path / "predictions.csv")
    assert read.to_dict("list") == table.to_dict("list")


def test_missing_numbers_are_nan_and_ids_never_are(tmp_path: Path) -> None:
    write_table(pd.DataFrame({"bag_id": ["", "NA"], "calibrated": [None, 0.5]}), tmp_path / "a.csv")
    read = read_table(tmp_path / "a.csv", missing={"calibrated": [""]})
    assert read["bag_id"].tolist() == ["", "NA"]
    assert read["calibrated"].isna().tolist() == [True, False]
