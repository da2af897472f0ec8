"""One thing that was looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """PASS, WARN or FAIL, what was seen, and what to do about it (empty for PASS)."""

    status: Literal["PASS", "WARN", "FAIL"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status}  {self.what}" + (f"  -> {self.remedy}" if self.remedy else "")


def passes(what: str) -> Finding:
    """All is well."""
    return Finding("PASS", what)


def warns(what: str, remedy: str) -> Finding:
    """Something is missing that not everyone needs."""
    return Finding("WARN", what, remedy)


def fails(what: str, remedy: str) -> Finding:
    """Something is broken."""
    return Finding("FAIL", what, remedy)
