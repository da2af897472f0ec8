"""docs/metrics.md against the schema that metrics.json follows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from lungtl.evaluation import document
from lungtl.evaluation.calibration import Calibration
from lungtl.evaluation.weighted import METRICS

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
NAMED = set(re.findall(r"`([a-z_0-9]+)`", TEXT))
PARTS = [
    Calibration,
    *(part for part in vars(document).values() if hasattr(part, "__pydantic_fields__") and part is not BaseModel),
]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_is_explained(part: Any) -> None:
    names = {field.alias or name for name, field in part.__pydantic_fields__.items() if not field.exclude}
    assert names <= NAMED


def test_every_metric_and_rule_is_explained() -> None:
    assert set(METRICS) <= NAMED
    assert {"prevalence", "diameter", "size_density", "untrained", "probe", "model", "uniform", "centre"} <= NAMED


def test_the_schema_s_number_is_that_of_the_code() -> None:
    assert f"this is schema {document.SCHEMA}." in TEXT
