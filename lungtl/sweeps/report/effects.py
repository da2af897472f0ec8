"""The effect of a factor: pairs of runs that differ in it alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lungtl.evaluation.estimate import Estimate
from lungtl.sweeps.report.comparable import AUROC, TestSet, pool_seeds
from lungtl.sweeps.report.factors import Levels


@dataclass(frozen=True)
class Effect:
    """The change in test AUROC that a level of a factor makes.

    The difference is the mean over the pairs of test AUROC with the level minus that with the reference, with the
    interval from resampling patients; its `sd` is the standard deviation between the pairs.
    """

    factor: str
    level: str
    reference: str  # the first level of the factor, in the order of the runs
    pairs: int  # of runs that differ in this alone; 0 leaves the effect undefined
    difference: Estimate


def measure_effects(tested: TestSet, factors: Levels) -> list[Effect]:
    """Measure the effect of each level but the first of each factor, everything else equal, including the seed."""
    effects = []
    for factor, all_levels in factors.items():
        levels = [all_levels[i] for i in tested.indices]
        rest_of_setting = [tuple(other[i] for name, other in factors.items() if name != factor) for i in tested.indices]
        blocks: dict[object, dict[str, int]] = defaultdict(dict)  # same but for the factor: level -> run
        for i, run in enumerate(tested.runs):
            blocks[rest_of_setting[i], run.seed].setdefault(levels[i], i)  # of duplicates the first counts
        reference, *compared = dict.fromkeys(levels)
        for level in compared:
            pairs = [
                (block[level], block[reference]) for block in blocks.values() if {level, reference} <= block.keys()
            ]
            effects.append(Effect(factor, level, reference, len(pairs), _difference(tested, pairs)))
    return effects


def _difference(tested: TestSet, pairs: list[tuple[int, int]]) -> Estimate:
    if not pairs:
        return Estimate(None, undefined="no pair of runs differs in this alone")
    first, second = map(list, zip(*pairs, strict=True))
    values, replicates = tested.test.values[:, AUROC], tested.test.replicates[:, AUROC]
    return pool_seeds(values[first] - values[second], replicates[first] - replicates[second])
