"""Who made the scanner, as one of a few names."""

from __future__ import annotations

import re

VENDORS = {
    "GE": r"\bge\b|general electric|imatron",
    "Siemens": r"siemens",
    "Philips": r"philips|picker|marconi|elscint",
    "Toshiba/Canon": r"toshiba|canon",
    "Hitachi": r"hitachi",
    "Neusoft": r"neusoft",
    "United Imaging": r"united imaging|\buih\b",
}


def vendor(manufacturer: str) -> str:
    """Name the vendor that a Manufacturer field means.

    The field is free text, in which anything may stand; only names known here ever leave it.

    Returns:
        A key of VENDORS; 'other' for any other text, '' for none.
    """
    for name, pattern in VENDORS.items():
        if re.search(pattern, manufacturer.lower()):
            return name
    return "other" if manufacturer else ""
