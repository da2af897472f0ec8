"""Paired tests: each setting against the best one and against what it has to beat, corrected for their number."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from lungtl.data.splits import read_split
from lungtl.evaluation.controls import control_probabilities
from lungtl.evaluation.delong import PairedAuroc, compare_aurocs
from lungtl.evaluation.operating_points import choose_thresholds
from lungtl.evaluation.paired import McNemar, holm, mcnemar
from lungtl.reporting.comparable import Bags, Setting, TestSet
from lungtl.runs import SPLIT

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
        adjusted: p-value of that, by Holm over all p-values of the report; None where it is undefined.
        decisions: where the decisions of the two differ; None where they were not compared.
        decisions_adjusted: p-value of that, likewise adjusted.
    """

    setting: str
    against: str
    kind: Literal["best", "control"]
    auroc: PairedAuroc
    adjusted: float | None = None
    decisions: McNemar | None = None
    decisions_adjusted: float | None = None


def compare(tested: TestSet) -> list[Comparison]:
    """Compare every setting with the best one, then every setting with every control.

    A setting speaks with the mean of its seeds' probabilities. Decisions are compared at the threshold with the
    highest Youden index on the validation bags.
    """
    found = [*_with_best(tested), *_with_controls(tested)]
    p_values = [one.auroc.p_value for one in found] + [
        one.decisions.p_value if one.decisions else None for one in found
    ]
    adjusted = holm(p_values)
    return [
        replace(one, adjusted=of_auroc, decisions_adjusted=of_decisions)
        for one, of_auroc, of_decisions in zip(found, adjusted[: len(found)], adjusted[len(found) :], strict=True)
    ]


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
    best_says, best_calls = averaged(test, best), _calls(tested, best)
    for setting in tested.settings:
        if setting is best:
            continue
        auroc = compare_aurocs(test.labels, averaged(test, setting), best_says, test.patient_ids)
        calls = _calls(tested, setting)
        decisions = None
        if calls is not None and best_calls is not None:
            decisions = mcnemar(test.labels, calls, best_calls, test.patient_ids)
        yield Comparison(setting.label, best.label, "best", auroc, decisions=decisions)


def _with_controls(tested: TestSet) -> Iterator[Comparison]:
    test = tested.test
    computed = computed_controls(tested)
    for setting in tested.settings:
        for name, says in computed.items():
            auroc = compare_aurocs(test.labels, averaged(test, setting), says, test.patient_ids)
            yield Comparison(setting.label, name, "control", auroc)
        # The others are each run's own, such as the untrained backbone: no mean of seeds, but what the run itself says.
        for place in setting.members:
            seed = f", seed {tested.runs[place].seed}" if len(setting.members) > 1 else ""
            for name, gain in tested.runs[place].document["gains"].items():
                if name not in computed:
                    yield Comparison(f"{setting.label}{seed}", name, "control", PairedAuroc(**gain))


def _calls(tested: TestSet, setting: Setting) -> NDArray[np.bool_] | None:
    """Which test bags the setting calls positive, bool [N]; None where validation bags give no threshold."""
    if tested.validation is None:
        return None
    threshold = choose_thresholds(tested.validation.labels, averaged(tested.validation, setting))["youden"]
    return None if threshold is None else averaged(tested.test, setting) >= threshold
