"""docs/metrics.md against the schema that metrics.json follows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lungtl.evaluation import schema
from lungtl.evaluation.metrics import METRICS
from lungtl.evaluation.schema import Part

TEXT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
NAMED = set(re.findall(r"`([a-z_0-9]+)`", TEXT))
PARTS = [part for part in vars(schema).values() if isinstance(part, type) and issubclass(part, Part)]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_every_key_is_explained(part: type[Part]) -> None:
    names = {field.alias or name for name, field in part.model_fields.items()}
    assert names <= NAMED


def test_every_metric_and_rule_is_explained() -> None:
    assert set(METRICS) <= NAMED
    assert {"prevalence", "diameter", "untrained", "model", "uniform", "centre"} <= NAMED


def test_the_schema_s_number_is_that_of_the_code() -> None:
    assert f"this is schema {schema.SCHEMA}." in TEXT
