"""Paired tests of each setting against the best one and against the controls, corrected for multiple comparisons."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.evaluation.chosen import choose_thresholds
from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.delong import compare_mean_aurocs
from lungtl.evaluation.estimate import Difference
from lungtl.evaluation.paired import McNemar, holm, mcnemar
from lungtl.evaluation.pooling import CONTROL, RUN_CONTROLS
from lungtl.evaluation.weighted import Floats
from lungtl.runs.record import read_own_split
from lungtl.sweeps.report.comparable import Setting, TestSet


@dataclass(frozen=True)
class Comparison:
    """A setting compared with another one or with a control, on the same test bags."""

    setting: str  # label
    against: str  # the label of the best setting, or the name of the control
    kind: Literal["best", "control"]  # what `against` is
    auroc: Difference  # the setting's AUROC minus the other's
    # its p-value, Holm-corrected over the comparisons with the same best setting or control; None where undefined
    adjusted: float | None = None
    family: int = 0  # how many p-values `adjusted` was corrected for
    # where the decisions of the two differ, in bags, summed over the seeds that both have; None where they were not
    # compared
    decisions: McNemar | None = None
    decisions_adjusted: float | None = None  # p-value of that, Holm-corrected over the compared decisions
    decisions_family: int = 0  # how many those are


def compare(tested: TestSet) -> list[Comparison]:
    """Compare every setting with the best one, then every setting with every control.

    The AUROC of a setting is the mean over its seeds, and so is that of its runs' own controls (`RUN_CONTROLS`); where
    not all of them have one, the label names the seeds that are compared. Decisions are compared between runs of the
    same seed, each at its threshold with the highest Youden index on its validation bags.

    P-values are corrected within each question: which settings differ from the best in AUROC, which in decisions,
    and, for each control, which settings beat it.
    """
    comparisons = [*_with_best(tested), *_with_controls(tested)]
    for family in dict.fromkeys((one.kind, one.against) for one in comparisons):
        indices = [i for i, one in enumerate(comparisons) if (one.kind, one.against) == family]
        p_values = [comparisons[i].auroc.p_value for i in indices]
        count = len(p_values) - p_values.count(None)
        for i, p in zip(indices, holm(p_values), strict=True):
            comparisons[i] = replace(comparisons[i], adjusted=p, family=count)
    decided = {i: one.decisions.p_value for i, one in enumerate(comparisons) if one.decisions is not None}
    for i, p in zip(decided, holm(list(decided.values())), strict=True):
        comparisons[i] = replace(comparisons[i], decisions_adjusted=p, decisions_family=len(decided))
    return comparisons


def split_controls(tested: TestSet) -> dict[str, Floats]:
    """The controls that depend on the split alone, the same for all runs: name -> probabilities of the test bags."""
    split = read_own_split(tested.runs[0].folder)
    bags = tested.runs[0].test[["bag_id"]].merge(split, on="bag_id", validate="one_to_one")
    return fit_controls(split[split["split"] == "train"]).predict(bags)


def _with_best(tested: TestSet) -> Iterator[Comparison]:
    best, test = tested.best, tested.test
    for setting in tested.settings if best is not None else ():
        if best is not None and setting is not best:
            seeds, best_seeds = (list(test.probabilities[one.members]) for one in (setting, best))
            auroc = compare_mean_aurocs(test.labels, seeds, best_seeds, test.patient_ids)
            decisions = _compare_decisions(tested, setting, best)
            yield Comparison(setting.label, best.label, "best", auroc, decisions=decisions)


def _with_controls(tested: TestSet) -> Iterator[Comparison]:
    test = tested.test
    controls = split_controls(tested)
    for setting in tested.settings:
        for name, control in controls.items():
            seeds = list(test.probabilities[setting.members])
            auroc = compare_mean_aurocs(test.labels, seeds, [control], test.patient_ids)
            yield Comparison(setting.label, name, "control", auroc)
        for name in RUN_CONTROLS:  # each run has its own
            members = [i for i in setting.members if CONTROL + name in tested.runs[i].test]
            if members:
                partial = len(members) < len(setting.members)
                suffix = f", seed {', '.join(str(tested.runs[i].seed) for i in members)}" if partial else ""
                own = [tested.runs[i].test[CONTROL + name].to_numpy() for i in members]
                auroc = compare_mean_aurocs(test.labels, list(test.probabilities[members]), own, test.patient_ids)
                yield Comparison(f"{setting.label}{suffix}", name, "control", auroc)


def _compare_decisions(tested: TestSet, setting: Setting, best: Setting) -> McNemar | None:
    """Where two settings decide differently; None where they share no seed, or a run has no threshold."""
    best_runs = dict(zip(best.seeds, best.members, strict=True))
    pairs = [(i, best_runs[seed]) for i, seed in zip(setting.members, setting.seeds, strict=True) if seed in best_runs]
    firsts = [calls for first, _ in pairs if (calls := _decisions(tested, first)) is not None]
    seconds = [calls for _, second in pairs if (calls := _decisions(tested, second)) is not None]
    if not pairs or not len(pairs) == len(firsts) == len(seconds):
        return None
    # A patient's bags are swapped in all seeds at once, since the seeds' predictions are correlated.
    labels, patients = np.tile(tested.test.labels, len(pairs)), tested.test.patient_ids * len(pairs)
    return mcnemar(labels, np.concatenate(firsts), np.concatenate(seconds), patients)


def _decisions(tested: TestSet, run: int) -> NDArray[np.bool_] | None:
    """Which test bags a run calls positive, bool [N]; None where its validation bags give no threshold."""
    if tested.validation is None:
        return None
    threshold = choose_thresholds(tested.validation.labels, tested.validation.probabilities[run])["youden"]
    return None if threshold is None else tested.test.probabilities[run] >= threshold
