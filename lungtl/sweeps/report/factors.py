"""What a sweep varied: its factors, the level of each run, and the missing combinations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice, product
from typing import NamedTuple

from lungtl.sweeps.report.finished import Run

MOST_MISSING = 50
"""Combinations per run that may be missing of a grid; with more, nobody wanted all of them."""
ABSENT = "-"
"""Level of a run without such a setting, such as the width of the mean aggregator."""

DATA = "dataset.fingerprint"
"""The factor that distinguishes data where no other factor does."""
FINGERPRINT_LENGTH = 8  # displayed characters

Levels = Mapping[str, Sequence[str]]
"""Factor -> the level of each run, in the order of the runs."""


def find_factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Find what was varied: factor -> the level of each run; empty where only the seed differs.

    A config group whose option differs is one factor with the options as levels, including whatever follows from the
    option. A setting of that group that was varied as well is a separate factor if every option had the same values
    of it; otherwise it becomes part of the level. The data's location is no setting, but different data are levels of
    a factor of their own unless another factor distinguishes them.
    """
    groups = {group: [run.choices.get(group, ABSENT) for run in runs] for run in runs for group in run.choices}
    factors = {group: levels for group, levels in sorted(groups.items()) if len(set(levels)) > 1}
    options = {group: list(levels) for group, levels in factors.items()}
    for key, values in differing_settings(runs).items():
        group = _group_of(key, options)
        if group is None:
            factors[key] = values
            continue
        values_by_option: dict[str, set[str]] = {}
        for option, value in zip(options[group], values, strict=True):
            values_by_option.setdefault(option, set()).add(value)
        sets = list(values_by_option.values())
        if max(map(len, sets)) == 1:
            continue  # it follows from the option
        if all(values_of_option == sets[0] for values_of_option in sets):
            factors[key] = values
        else:
            factors[group] = [
                f"{level} {last_part(key)}={value}" if len(values_by_option[option]) > 1 else level
                for level, option, value in zip(factors[group], options[group], values, strict=True)
            ]
    _add_data(factors, runs)
    return factors


def _add_data(factors: dict[str, list[str]], runs: Sequence[Run]) -> None:
    """Distinguish runs on different data that no factor distinguishes."""
    stores: dict[tuple[str, ...], set[str]] = {}
    for i, run in enumerate(runs):
        stores.setdefault(tuple(levels[i] for levels in factors.values()), set()).add(run.store_fingerprint)
    if all(len(fingerprints) == 1 for fingerprints in stores.values()):
        return
    data = [run.store_fingerprint[:FINGERPRINT_LENGTH] for run in runs]
    if "dataset" in factors:
        pairs = zip(factors["dataset"], data, strict=True)
        factors["dataset"] = [f"{level} {last_part(DATA)}={store}" for level, store in pairs]
    else:
        factors[DATA] = data


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that differ between runs: dotted key -> the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key, ABSENT) for run in runs] for key in keys}
    return {key: texts for key, texts in values.items() if len(set(texts)) > 1}


def setting_labels(factors: Levels, n: int) -> list[str]:
    """Label each of n runs by its levels: "attention, weights=none"; "the only setting" where nothing was varied."""
    if not factors:
        return ["the only setting"] * n
    return [
        ", ".join(f"{last_part(name)}={levels[i]}" if "." in name else levels[i] for name, levels in factors.items())
        for i in range(n)
    ]


class Missing(NamedTuple):
    """The combinations of levels without a run: how many, and the first few of them."""

    number: int
    first: list[tuple[str, ...]]


def missing_cells(factors: Levels, most: int = 13) -> Missing:
    """Which combinations of levels have no run; none of a search, which draws its levels and has no grid.

    Args:
        factors: of the runs.
        most: how many to list: the number of all combinations grows with the power of the factors.
    """
    present = set(zip(*factors.values(), strict=True))
    levels = [list(dict.fromkeys(of_runs)) for of_runs in factors.values()]
    count = math.prod(map(len, levels)) - len(present) if levels else 0
    if count > MOST_MISSING * len(present):
        return Missing(0, [])
    return Missing(count, list(islice((cell for cell in product(*levels) if cell not in present), min(most, count))))


def last_part(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def _group_of(key: str, groups: Mapping[str, object]) -> str | None:
    """The varied group whose option may have set the key: its own, or an overlay that can set any."""
    for group in (key.partition(".")[0], "experiments", "debug"):
        if group in groups:
            return group
    return None
