"""The result of one check."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """Status, observation and, unless it is PASS, the remedy."""

    status: Literal["PASS", "WARN", "FAIL"]
    what: str
    remedy: str = ""

    def __str__(self) -> str:
        return f"{self.status}  {self.what}" + (f"  -> {self.remedy}" if self.remedy else "")
