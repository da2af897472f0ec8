"""Manufacturer fields as scanners write them."""

from __future__ import annotations

import pytest

from lungtl.sources.ct.elements import vendor


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("GE MEDICAL SYSTEMS", "GE"),
        ("GE Healthcare", "GE"),
        ("Imatron", "GE"),
        ("SIEMENS", "Siemens"),
        ("Siemens Healthineers", "Siemens"),
        ("Philips Medical Systems", "Philips"),
        ("Marconi Medical Systems, Inc.", "Philips"),
        ("TOSHIBA", "Toshiba/Canon"),
        ("CANON_MEC", "Toshiba/Canon"),
        ("Hitachi Medical Corporation", "Hitachi"),
        ("Neusoft Medical Systems", "Neusoft"),
        ("UIH", "United Imaging"),
        ("lungtl phantom", "lungtl phantom"),
        ("DOE^JOHN", "other"),
        ("GEORGE", "other"),
        ("", ""),
    ],
)
def test_vendor(field: str, expected: str) -> None:
    assert vendor(field) == expected
