"""How a run's command is written again; the command itself is tested in tests/commands."""

from __future__ import annotations

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.reproduce import quoted


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "it's",
        'say "x"',
        "a\\b",
        "ends with \\",
        "ends with '",
        r"\'both\' of 'them\\",
        "a=b,c:[d]{e}",
    ],
)
def test_any_name_reaches_the_new_run_as_it_is(text: str) -> None:
    (parsed,) = OverridesParser.create().parse_overrides([f"name={quoted(text)}"])
    assert str(parsed.value()) == text
