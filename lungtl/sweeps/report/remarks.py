"""What a reader of a sweep's numbers should know, in plain words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from lungtl.runs.environment import several
from lungtl.sweeps.report.comparable import Setting, TestSet
from lungtl.sweeps.report.comparisons import Comparison
from lungtl.sweeps.report.finished import PRUNED_STATE
from lungtl.sweeps.report.sweep import Sweep

ALPHA = 0.05
SHORT = 12  # characters of a commit
NAMED = 12  # items in a list before the rest is only counted


def choice(sweep: Sweep) -> str:
    """Say which setting was chosen and what it gives on the test bags."""
    tested = sweep.tested
    best = tested.best
    if best is None:
        lacking = [setting.label for setting in tested.settings if setting.validation.value is None]
        return (
            "No setting is chosen: the choice is made by the AUROC on the validation bags, which is not known or not "
            f"defined for {listed(lacking)}."
        )
    score = best.test["auroc"]
    said = "is undefined" if score.value is None else f"is {score.value:.3f}"
    if score.low is not None and score.high is not None:
        said += f", 95 % interval {score.low:.3f} to {score.high:.3f}"
    elif score.value in (0, 1):
        said += ", without an interval: every resample of the patients gives that, which does not say how sure it is"
    if len(tested.settings) == 1:
        return f"There is one setting, {best.label}. Its AUROC on the test bags {said}."
    return (
        f"Chosen by its AUROC on the validation bags ({best.validation.value:.3f}): {best.label}. Its AUROC on the "
        f"test bags {said}."
    )


def warnings(sweep: Sweep) -> list[str]:
    """List what limits the conclusions, each one sentence or two."""
    parts = (_not_compared, _again, _differences, _controls, _untested, _seeds, _environments, _incomplete)
    return [sentence for part in parts for sentence in part(sweep)]


def listed(items: Sequence[str]) -> str:
    """The items, or the first of many and the number of the others."""
    shown = "; ".join(items[:NAMED])
    return shown if len(items) <= NAMED else f"{shown}; and {len(items) - NAMED} more"


def cell(sweep: Sweep, levels: Sequence[str]) -> str:
    """A combination of levels: "aggregator=mean, backbone.weights=none"."""
    return ", ".join(f"{name}={level}" for name, level in zip(sweep.factors, levels, strict=True))


def _not_compared(sweep: Sweep) -> Iterator[str]:
    count = len(sweep.test_sets)
    if count == 1:
        return
    others = sum(len(tested.runs) for tested in sweep.test_sets[1:])
    yield (
        f"The runs have {count} different test sets. Only the {len(sweep.tested.runs)} runs of test set 1 are "
        f"compared; the other {others} are in the table of settings, and their numbers must not be held against these. "
        "Folds are pooled by python -m lungtl.crossval."
    )


def _again(sweep: Sweep) -> Iterator[str]:
    tested = sweep.tested
    told = [
        f"{one.setting} (seed {tested.runs[one.place].seed}: run {tested.runs[one.place].name} repeats run "
        f"{tested.runs[one.first].name})"
        for one in tested.again
    ]
    if told:
        yield f"The same setting with the same seed is no second seed; only the first run counts of {listed(told)}."


def _differences(sweep: Sweep) -> Iterator[str]:
    with_best = [one for one in sweep.comparisons if one.kind == "best"]
    if not with_best:
        return
    alike = [one.setting for one in with_best if one.adjusted is not None and one.adjusted >= ALPHA]
    best = with_best[0].against
    if alike and len(alike) == len(with_best):
        yield (
            f"No difference shown: not one setting's test AUROC differs from that of {best} by more than chance would "
            f"explain{_corrected(with_best[0])}. This does not show that they are equal: the test set may be "
            "too small to tell."
        )
    elif alike:
        yield f"Not shown to differ from {best}{_corrected(with_best[0])}: {listed(alike)}."
    higher = _higher_on_test(sweep.tested)
    if higher is not None:
        yield (
            f"{higher.label} has a higher test AUROC than the chosen setting. It is not the choice: choosing by the "
            "test bags would make its number too good."
        )


def _higher_on_test(tested: TestSet) -> Setting | None:
    """The setting with the highest test AUROC, where that is not the chosen one."""
    if tested.best is None:
        return None
    top = max(tested.settings, key=lambda setting: setting.test["auroc"].value or 0.0)
    own, best = top.test["auroc"].value, tested.best.test["auroc"].value
    return top if own is not None and best is not None and own > best else None


def _controls(sweep: Sweep) -> Iterator[str]:
    by_control: dict[str, list[Comparison]] = {}
    for one in sweep.comparisons:
        if one.kind == "control" and one.adjusted is not None:
            by_control.setdefault(one.against, []).append(one)
    for name, tested in by_control.items():
        unclear = [one.setting for one in tested if one.adjusted is None or one.adjusted >= ALPHA]
        worse = [one.setting for one in tested if one.setting not in unclear and (one.auroc.difference or 0) < 0]
        corrected = _corrected(tested[0])
        if worse:
            beaten = "every setting" if len(worse) == len(tested) else listed(worse)
            yield f"The control {name} is shown to beat {beaten}{corrected}."
        if len(unclear) == len(tested):
            yield f"No setting is shown to beat the control {name}{corrected}."
        elif unclear:
            yield f"Not shown to beat the control {name}{corrected}: {listed(unclear)}."


def _corrected(one: Comparison) -> str:
    """Say for how many comparisons a p-value was corrected; nothing for one."""
    return f" (corrected for {one.family} comparisons)" if one.family > 1 else ""


def _untested(sweep: Sweep) -> Iterator[str]:
    without = [f"{one.setting} against {one.against}" for one in sweep.comparisons if one.auroc.p_value is None]
    if without:
        reasons = dict.fromkeys(one.auroc.undefined or "" for one in sweep.comparisons if one.auroc.p_value is None)
        yield f"Not tested ({listed(list(reasons))}): {listed(without)}."


def _seeds(sweep: Sweep) -> Iterator[str]:
    settings = sweep.tested.settings
    single = [setting.label for setting in settings if len(setting.seeds) == 1]
    if len(single) == len(settings):
        yield "Each setting was trained with one seed: how much another seed would change is not known."
    elif single:
        yield f"Trained with one seed only: {listed(single)}."


def _environments(sweep: Sweep) -> Iterator[str]:
    runs = sweep.tested.runs
    known = [run.environment for run in runs if run.environment is not None]
    differing = several(known)
    differing.pop("changed", None)
    if differing:
        told = [
            f"{name} {' or '.join(f'{_short(name, value)} ({_runs(count)})' for value, count in values.items())}"
            for name, values in differing.items()
        ]
        yield (
            "The runs were not computed by the same code, packages or device, which may be what makes a difference: "
            f"{listed(told)}."
        )
    if changed := sum(bool(one["changed"]) for one in known):
        yield (
            f"{changed} of {len(runs)} runs were computed by code with changes that no commit holds, so whether it was "
            "the code of the others is not known."
        )
    if len(known) < len(runs):
        yield f"By which code and packages {len(runs) - len(known)} of {len(runs)} runs were computed is not recorded."


def _short(name: str, value: str) -> str:
    return value[:SHORT] if name == "commit" else value


def _runs(count: int) -> str:
    return f"{count} run{'s' if count > 1 else ''}"


def _incomplete(sweep: Sweep) -> Iterator[str]:
    asked = len(sweep.runs) + len(sweep.unfinished)
    pruned = sum(one.state == PRUNED_STATE for one in sweep.unfinished)
    if count := len(sweep.unfinished) - pruned:
        yield f"{count} of {asked} runs did not finish; they are listed below and count nowhere."
    if pruned:
        yield f"{pruned} of {asked} runs were pruned: the search stopped them early, so they have no scores."
    if sweep.missing:
        cells = len(set(zip(*sweep.factors.values(), strict=True))) + len(sweep.missing)
        yield (
            f"The grid is not full: of {cells} combinations {len(sweep.missing)} are missing. Effects are taken from "
            "the pairs of runs that exist."
        )
    alone = {effect.factor for effect in sweep.effects if effect.pairs == 0}
    for name in sorted(alone):
        lacking = [effect.level for effect in sweep.effects if effect.factor == name and effect.pairs == 0]
        yield f"{name}: no two runs differ in it alone for {listed(lacking)}, so that effect is not known."
