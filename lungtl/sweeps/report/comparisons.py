"""Paired tests: each setting against the best one and against what it has to beat, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.data.splits import read_split
from lungtl.evaluation.controls import control_probabilities
from lungtl.evaluation.delong import PairedAuroc, compare_mean_aurocs
from lungtl.evaluation.operating_points import choose_thresholds
from lungtl.evaluation.paired import McNemar, holm, mcnemar
from lungtl.evaluation.pooling import UNTRAINED
from lungtl.runs.folder import SPLIT
from lungtl.sweeps.report.comparable import Bags, Setting, TestSet

if TYPE_CHECKING:
    import pandas as pd

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """A setting beside another one or a control, on the same test bags.

    Attributes:
        setting: its label.
        against: the label of the best setting, or the name of the control.
        kind: what `against` is.
        auroc: the setting's AUROC less the other's.
        adjusted: p-value of that, by Holm over the comparisons with the same best setting or control; None where it
            is undefined.
        family: how many p-values `adjusted` was corrected for.
        decisions: where the decisions of the two differ, in bags, summed over the seeds that both have; None where
            they were not compared.
        decisions_adjusted: p-value of that, by Holm over the decisions that were compared.
        decisions_family: how many those are.
    """

    setting: str
    against: str
    kind: Literal["best", "control"]
    auroc: PairedAuroc
    adjusted: float | None = None
    family: int = 0
    decisions: McNemar | None = None
    decisions_adjusted: float | None = None
    decisions_family: int = 0


def compare(tested: TestSet) -> list[Comparison]:
    """Compare every setting with the best one, then every setting with every control.

    An AUROC of a setting is the mean over its seeds, and so is that of its runs' untrained controls; where not all of
    them have one, the label names the seeds that are compared. Decisions are compared seed by seed, where both settings
    have the seed, each run at its threshold with the highest Youden index on its validation bags.

    Each question has p-values of its own to correct for: which settings differ from the best in AUROC, which in
    decisions, and, for each control, which settings beat it.
    """
    found = [*_with_best(tested), *_with_controls(tested)]
    for other in dict.fromkeys((one.kind, one.against) for one in found):
        places = [i for i, one in enumerate(found) if (one.kind, one.against) == other]
        p_values = [found[i].auroc.p_value for i in places]
        count = len(p_values) - p_values.count(None)
        for i, p in zip(places, holm(p_values), strict=True):
            found[i] = replace(found[i], adjusted=p, family=count)
    places = [i for i, one in enumerate(found) if one.decisions is not None]
    for i, p in zip(places, holm([one.decisions.p_value for one in found if one.decisions]), strict=True):
        found[i] = replace(found[i], decisions_adjusted=p, decisions_family=len(places))
    return found


def averaged(bags: Bags, setting: Setting) -> Floats:
    """The mean of the probabilities of the setting's seeds, float64 [N]."""
    mean: Floats = bags.probabilities[setting.members].mean(axis=0)
    return mean


def computed_controls(tested: TestSet) -> dict[str, Floats]:
    """The controls that follow from the split alone, the same for all runs: name -> probabilities of the test bags."""
    split = read_split(tested.runs[0].folder / SPLIT)
    bags: pd.DataFrame = tested.runs[0].test[["bag_id"]].merge(split, on="bag_id", validate="one_to_one")
    return control_probabilities(split[split["split"] == "train"], bags)


def _with_best(tested: TestSet) -> Iterator[Comparison]:
    best = tested.best
    if best is None:
        return
    test = tested.test
    for setting in tested.settings:
        if setting is not best:
            auroc = compare_mean_aurocs(test.labels, _says(test, setting), _says(test, best), test.patient_ids)
            yield Comparison(setting.label, best.label, "best", auroc, decisions=_decisions(tested, setting, best))


def _with_controls(tested: TestSet) -> Iterator[Comparison]:
    test = tested.test
    computed = computed_controls(tested)
    for setting in tested.settings:
        for name, says in computed.items():
            auroc = compare_mean_aurocs(test.labels, _says(test, setting), [says], test.patient_ids)
            yield Comparison(setting.label, name, "control", auroc)
        # each run has an untrained control of its own
        places = [place for place in setting.members if UNTRAINED in tested.runs[place].test]
        if places:
            few = len(places) < len(setting.members)
            seeds = f", seed {', '.join(str(tested.runs[place].seed) for place in places)}" if few else ""
            untrained = [tested.runs[place].test[UNTRAINED].to_numpy() for place in places]
            auroc = compare_mean_aurocs(test.labels, list(test.probabilities[places]), untrained, test.patient_ids)
            yield Comparison(f"{setting.label}{seeds}", "untrained", "control", auroc)


def _says(bags: Bags, setting: Setting) -> list[Floats]:
    """The probabilities of each seed."""
    return list(bags.probabilities[setting.members])


def _decisions(tested: TestSet, setting: Setting, best: Setting) -> McNemar | None:
    """Where two settings decide differently; None where they share no seed, or one has no threshold."""
    of_best = dict(zip(best.seeds, best.members, strict=True))
    pairs = [(i, of_best[seed]) for i, seed in zip(setting.members, setting.seeds, strict=True) if seed in of_best]
    calls = [(_calls(tested, first), _calls(tested, second)) for first, second in pairs]
    firsts = [first for first, second in calls if first is not None and second is not None]
    seconds = [second for first, second in calls if first is not None and second is not None]
    if not pairs or len(firsts) < len(pairs):
        return None
    # a patient's bags are swapped in all seeds at once, since what the seeds say of them is alike
    labels, patients = np.tile(tested.test.labels, len(pairs)), tested.test.patient_ids * len(pairs)
    return mcnemar(labels, np.concatenate(firsts), np.concatenate(seconds), patients)


def _calls(tested: TestSet, place: int) -> NDArray[np.bool_] | None:
    """Which test bags a run calls positive, bool [N]; None where validation bags give no threshold."""
    if tested.validation is None:
        return None
    threshold = choose_thresholds(tested.validation.labels, tested.validation.probabilities[place])["youden"]
    return None if threshold is None else tested.test.probabilities[place] >= threshold
