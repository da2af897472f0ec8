"""The nearest known name to a mistyped one."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher


def nearest(wrong: str, known: Iterable[str]) -> str:
    """A half-sentence that names the nearest known name, or all of them when they are few and none is near.

    Args:
        wrong: what was typed; dotted names also match by their last part.
        known: the names that exist.
    """
    names = sorted(known)
    if not names:
        return "there are no choices"
    best = max(names, key=lambda name: _similarity(wrong, name))
    if _similarity(wrong, best) >= 0.6:
        return f"did you mean {best}?" + (f" (choices: {', '.join(names)})" if len(names) <= 12 else "")
    return f"choices: {', '.join(names)}" if len(names) <= 30 else "see --help for the choices"


def _similarity(a: str, b: str) -> float:
    same_leaf = a.rpartition(".")[2] == b.rpartition(".")[2]
    return max(SequenceMatcher(None, a, b).ratio(), 0.8 if same_leaf and "." in b else 0.0)
