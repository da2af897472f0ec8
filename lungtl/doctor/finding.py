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
        line = f"{self.status}  {self.what}"
        if not self.remedy:
            return line
        return f"{line}\n      -> {self.remedy}" if len(line) + len(self.remedy) > 74 else f"{line}  -> {self.remedy}"


def verdict(ok: bool, what: str, remedy: str, problem: Literal["WARN", "FAIL"] = "FAIL") -> Finding:
    """PASS if a check succeeded; otherwise the problem, with its remedy."""
    return Finding("PASS", what) if ok else Finding(problem, what, remedy)
