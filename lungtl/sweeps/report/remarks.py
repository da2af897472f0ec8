"""What limits the conclusions from a sweep, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lungtl.evaluation.formatting import format_number, plural
from lungtl.runs.environment import several
from lungtl.sweeps.report.comparable import Setting, TestSet
from lungtl.sweeps.report.comparisons import Comparison
from lungtl.sweeps.report.finished import PRUNED_STATE
from lungtl.sweeps.report.sweep import Sweep

ALPHA = 0.05
COMMIT_LENGTH = 12  # characters
MAX_ITEMS = 12  # of a list, before the rest is only counted
CONTROLS = {
    "prevalence": "the prevalence",
    "diameter": "nodule diameter alone",
    "size_density": "nodule diameter and density alone",
    "untrained": "the same head on a random backbone",
    "probe": "logistic regression on the frozen features",
}
"""Control -> its name in a sentence."""


def best_setting(sweep: Sweep) -> str:
    """Name the best setting on validation and its test AUROC."""
    tested = sweep.tested
    best = tested.best
    if best is None:
        lacking = [setting.label for setting in tested.settings if setting.validation.value is None]
        return f"No best setting: the validation AUROC is missing or undefined for {join_items(lacking)}."
    auroc = best.test["auroc"]
    result = "Test AUROC undefined" if auroc.value is None else f"Test AUROC {format_number(auroc.value)}"
    if auroc.low is not None and auroc.high is not None:
        result += f" (95 % CI {format_number(auroc.low)} to {format_number(auroc.high)})"
    elif auroc.value in (0, 1):
        result += " (no interval: every resample of the patients gives the same value)"
    if len(tested.settings) == 1:
        return f"There is one setting, {best.label}. {result}."
    return f"Best setting on validation: {best.label} (AUROC {format_number(best.validation.value or 0)}). {result}."


def warnings(sweep: Sweep) -> list[str]:
    """List what limits the conclusions, each in one or two sentences."""
    parts = (
        _several_test_sets, _duplicates, _differences, _controls, _untested, _seeds, _environments, _incomplete
    )  # fmt: skip
    return [sentence for part in parts for sentence in part(sweep)]


def join_items(items: Sequence[str], count: int | None = None) -> str:
    """The items, or the first of many and the number of the rest; `count`: of all, if not all are given."""
    text, count = "; ".join(items[:MAX_ITEMS]), len(items) if count is None else count
    return text if count <= MAX_ITEMS else f"{text}; and {count - MAX_ITEMS} more"


def describe_levels(sweep: Sweep, levels: Sequence[str]) -> str:
    """A combination of levels: "aggregator=mean, backbone.weights=none"."""
    return ", ".join(f"{name}={level}" for name, level in zip(sweep.factors, levels, strict=True))


def _several_test_sets(sweep: Sweep) -> Iterator[str]:
    count = len(sweep.test_sets)
    if count > 1:
        excluded = sum(len(tested.runs) for tested in sweep.test_sets[1:])
        yield (
            f"The runs have {count} different test sets. Only the {plural(len(sweep.tested.runs), 'run')} of test set "
            f"1 are compared. The table of settings also lists {plural(excluded, 'run')} with other test sets, whose "
            "numbers are not comparable. To pool the folds of a cross-validation, use python -m lungtl.crossval."
        )


def _duplicates(sweep: Sweep) -> Iterator[str]:
    tested = sweep.tested
    repeated = [
        f"{tested.name_of(run)} (run {tested.runs[run].name} repeats run {tested.runs[first].name})"
        for run, first in tested.duplicates.items()
    ]
    if repeated:
        yield f"Of runs with the same setting and seed only the first counts: {join_items(repeated)}."


def _differences(sweep: Sweep) -> Iterator[str]:
    with_best = [one for one in sweep.comparisons if one.kind == "best"]
    if not with_best:
        return
    similar = [one.setting for one in with_best if one.adjusted is not None and one.adjusted >= ALPHA]
    best, corrected = with_best[0].against, _corrected(with_best[0])
    if similar and len(similar) == len(with_best):
        yield (
            f"No setting's test AUROC differs significantly from that of {best}{corrected}. This does not show that "
            "they are equal: the test set may be too small."
        )
    elif similar:
        yield f"Not significantly different from {best}{corrected}: {join_items(similar)}."
    higher = _higher_on_test(sweep.tested)
    if higher is not None:
        yield (
            f"{higher.label} has a higher test AUROC than the best setting on validation. It is not selected, since "
            "selecting on the test set would inflate its AUROC."
        )


def _higher_on_test(tested: TestSet) -> Setting | None:
    """The setting with the highest test AUROC, where that is not the best on validation."""
    if tested.best is None:
        return None
    top = max(tested.settings, key=lambda setting: setting.test["auroc"].value or 0.0)
    highest, best = top.test["auroc"].value, tested.best.test["auroc"].value
    return top if highest is not None and best is not None and highest > best else None


def _controls(sweep: Sweep) -> Iterator[str]:
    by_control: dict[str, list[Comparison]] = {}
    for one in sweep.comparisons:
        if one.kind == "control" and one.adjusted is not None:
            by_control.setdefault(one.against, []).append(one)
    for key, comparisons in by_control.items():
        unclear = [one.setting for one in comparisons if one.adjusted is None or one.adjusted >= ALPHA]
        worse = [one.setting for one in comparisons if one.setting not in unclear and (one.auroc.difference or 0) < 0]
        name, corrected = CONTROLS.get(key, f"the control {key}"), _corrected(comparisons[0])
        if worse:
            beaten = "every setting" if len(worse) == len(comparisons) else join_items(worse)
            yield f"{name[0].upper()}{name[1:]} outperforms {beaten}{corrected}."
        if len(unclear) == len(comparisons):
            yield f"No setting is significantly better than {name}{corrected}."
        elif unclear:
            yield f"Not significantly better than {name}{corrected}: {join_items(unclear)}."


def _corrected(one: Comparison) -> str:
    """For how many comparisons a p-value was corrected; empty for one."""
    return f" (Holm-corrected for {one.family} comparisons)" if one.family > 1 else ""


def _untested(sweep: Sweep) -> Iterator[str]:
    untested = [one for one in sweep.comparisons if one.auroc.p_value is None]
    if untested:
        reasons = dict.fromkeys(one.auroc.undefined or "" for one in untested)
        pairs = [f"{one.setting} against {one.against}" for one in untested]
        yield f"Not tested ({join_items(list(reasons))}): {join_items(pairs)}."


def _seeds(sweep: Sweep) -> Iterator[str]:
    settings = sweep.tested.settings
    single = [setting.label for setting in settings if len(setting.seeds) == 1]
    if len(single) == len(settings):
        yield "Each setting was trained with one seed only, so the variation between seeds is unknown."
    elif single:
        yield f"Trained with one seed only: {join_items(single)}."


def _environments(sweep: Sweep) -> Iterator[str]:
    runs = sweep.tested.runs
    known = [run.environment for run in runs if run.environment is not None]
    differing = several(known)
    differing.pop("changed", None)
    if differing:
        described = []
        for name, values in differing.items():
            texts = (value[:COMMIT_LENGTH] if name == "commit" else value for value in values)
            counted = (f"{text} ({plural(n, 'run')})" for text, n in zip(texts, values.values(), strict=True))
            described.append(f"{name} {' or '.join(counted)}")
        yield (
            "The runs used different code, packages or devices, which may explain differences between them: "
            f"{join_items(described)}."
        )
    if changed := sum(bool(one["changed"]) for one in known):
        yield f"{changed} of {plural(len(runs), 'run')} used uncommitted changes, so the code may differ between runs."
    if len(known) < len(runs):
        yield f"Code and package versions are not recorded for {len(runs) - len(known)} of {plural(len(runs), 'run')}."


def _incomplete(sweep: Sweep) -> Iterator[str]:
    total = len(sweep.runs) + len(sweep.unfinished)
    pruned = sum(one.state == PRUNED_STATE for one in sweep.unfinished)
    if count := len(sweep.unfinished) - pruned:
        yield f"{count} of {plural(total, 'run')} did not finish; listed below, they count nowhere."
    if pruned:
        yield f"{pruned} of {plural(total, 'run')} were pruned: the search stopped them early, so they have no scores."
    if missing := sweep.missing.number:
        cells = len(set(zip(*sweep.factors.values(), strict=True))) + missing
        yield (
            f"The grid is incomplete: {missing} of {cells} combinations are missing. Effects are measured "
            "on the pairs of runs that exist."
        )
    unknown: dict[str, list[str]] = {}
    for effect in sweep.effects:
        if effect.pairs == 0:
            unknown.setdefault(effect.factor, []).append(effect.level)
    for name, levels in sorted(unknown.items()):
        yield f"{name}: no two runs differ in it alone for {join_items(levels)}, so its effect is unknown."
