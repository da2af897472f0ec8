"""What a sweep varied: its factors, the level of each run, and the combinations that are missing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product

from lungtl.sweeps.report.finished import Run

ABSENT = "-"
"""Level of a run that has no such setting, as the mean aggregator has no width."""

DATA = "dataset.fingerprint"
"""Stands for the data where nothing else tells them apart."""
SHOWN = 8  # characters of a fingerprint

Levels = Mapping[str, Sequence[str]]
"""Factor -> the level of each run, in the order of the runs."""


def find_factors(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Tell what was varied.

    A config group whose option differs is one factor, with the options as levels. What follows from the option is part
    of it; a setting of the group that was varied too is a factor of its own where every option had the same values of
    it, and is told with the option otherwise. Where the data lie is no setting, but other data are a level of their own
    unless another factor tells them apart.

    Args:
        runs: of one sweep.

    Returns:
        Factor -> the level of each run. Empty where nothing but the seed differs.
    """
    groups = {group: [run.choices.get(group, ABSENT) for run in runs] for run in runs for group in run.choices}
    factors = {group: levels for group, levels in sorted(groups.items()) if len(set(levels)) > 1}
    options = {group: list(levels) for group, levels in factors.items()}
    for key, values in differing_settings(runs).items():
        group = _owner(key, options)
        if group is None:
            factors[key] = values
            continue
        of_option: dict[str, set[str]] = {}
        for option, value in zip(options[group], values, strict=True):
            of_option.setdefault(option, set()).add(value)
        sets = list(of_option.values())
        if max(map(len, sets)) == 1:
            continue
        if all(values_of == sets[0] for values_of in sets):
            factors[key] = values
        else:
            told = [
                f"{level} {short(key)}={value}" if len(of_option[option]) > 1 else level
                for level, option, value in zip(factors[group], options[group], values, strict=True)
            ]
            factors[group] = told
    of_levels: dict[tuple[str, ...], set[str]] = {}
    for i, run in enumerate(runs):
        of_levels.setdefault(tuple(levels[i] for levels in factors.values()), set()).add(run.store_fingerprint)
    if any(len(stores) > 1 for stores in of_levels.values()):
        data = [run.store_fingerprint[:SHOWN] for run in runs]
        if "dataset" in factors:
            factors["dataset"] = [
                f"{level} {short(DATA)}={store}" for level, store in zip(factors["dataset"], data, strict=True)
            ]
        else:
            factors[DATA] = data
    return factors


def differing_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that are not the same in all runs: dotted key -> the value of each run."""
    keys = dict.fromkeys(key for run in runs for key in run.settings)
    values = {key: [run.settings.get(key, ABSENT) for run in runs] for key in keys}
    return {key: of_runs for key, of_runs in values.items() if len(set(of_runs)) > 1}


def labels(factors: Levels, n: int) -> list[str]:
    """Name each of n runs by its levels: "attention, weights=none"; "the only setting" where nothing was varied."""
    if not factors:
        return ["the only setting"] * n
    return [
        ", ".join(f"{short(name)}={levels[i]}" if "." in name else levels[i] for name, levels in factors.items())
        for i in range(n)
    ]


def missing_cells(factors: Levels) -> list[tuple[str, ...]]:
    """The combinations of levels that no run has; none where there is no factor."""
    present = set(zip(*factors.values(), strict=True))
    return [cell for cell in product(*(dict.fromkeys(levels) for levels in factors.values())) if cell not in present]


def short(key: str) -> str:
    """The last part of a dotted key."""
    return key.rpartition(".")[2]


def _owner(key: str, groups: Mapping[str, object]) -> str | None:
    """The varied group whose option may have set the key: its own, or an overlay that may set any."""
    for group in (key.partition(".")[0], "experiments", "debug"):
        if group in groups:
            return group
    return None
