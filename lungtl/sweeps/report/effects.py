"""The effect of a factor: runs that differ in it alone, paired."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from lungtl.sweeps.report.comparable import AUROC, Score, TestSet, pool
from lungtl.sweeps.report.factors import Levels


@dataclass(frozen=True)
class Effect:
    """What a level of a factor changes.

    Attributes:
        factor: its name.
        level: whose effect it is.
        reference: the first level of the factor, in the order of the runs.
        pairs: how many pairs of runs differ in this alone; 0 leaves the effect undefined.
        difference: mean over the pairs of test AUROC with the level less that with the reference, with the interval
            from resampling patients; `sd` is the standard deviation between the pairs.
    """

    factor: str
    level: str
    reference: str
    pairs: int
    difference: Score


def measure_effects(tested: TestSet, factors: Levels) -> list[Effect]:
    """Measure what each factor changes, all else being equal, the seed too.

    Args:
        tested: runs with the same test bags.
        factors: level of each finished run of the sweep.

    Returns:
        One effect for each level but the first of each factor that varies among these runs.
    """
    effects = []
    for factor, of_all in factors.items():
        levels = [of_all[place] for place in tested.places]
        others = [tuple(own[place] for name, own in factors.items() if name != factor) for place in tested.places]
        blocks: dict[object, dict[str, int]] = defaultdict(dict)
        for i, run in enumerate(tested.runs):
            blocks[others[i], run.seed].setdefault(levels[i], i)  # of runs that repeat each other the first counts
        reference, *rest = dict.fromkeys(levels)
        for level in rest:
            pairs = [
                (block[level], block[reference]) for block in blocks.values() if {level, reference} <= block.keys()
            ]
            effects.append(Effect(factor, level, reference, len(pairs), _difference(tested, pairs)))
    return effects


def _difference(tested: TestSet, pairs: list[tuple[int, int]]) -> Score:
    if not pairs:
        return Score(None)
    first, second = map(list, zip(*pairs, strict=True))
    values, replicates = tested.test.values[:, AUROC], tested.test.replicates[:, AUROC]
    return pool(values[first] - values[second], replicates[first] - replicates[second])
