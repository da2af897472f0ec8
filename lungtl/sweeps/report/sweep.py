"""A sweep with everything the report shows of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

from lungtl.sweeps.report.comparable import METRICS, Setting, TestSet, by_test_set
from lungtl.sweeps.report.comparisons import Comparison, compare
from lungtl.sweeps.report.effects import Effect, measure_effects
from lungtl.sweeps.report.factors import Missing, find_factors, missing_cells, setting_labels
from lungtl.sweeps.report.finished import Run, Unfinished, read_runs

Row = dict[str, object]

COMPARED_COSTS = {"trainable_parameters": "trainable parameters", "seconds": "training, s"}
COSTS = {"epochs": "epochs", **COMPARED_COSTS}
"""Key of `training` in metrics.json -> its title."""


@dataclass(frozen=True)
class Sweep:
    """A sweep; only the runs of its first test set are compared."""

    runs: list[Run]  # those that finished
    unfinished: list[Unfinished]
    factors: dict[str, list[str]]  # what was varied -> the level of each finished run
    missing: Missing  # combinations of levels without a finished run
    test_sets: list[TestSet]
    comparisons: list[Comparison]
    effects: list[Effect]

    @property
    def tested(self) -> TestSet:
        """The test set of most runs."""
        return self.test_sets[0]


def read_sweep(folder: Path) -> Sweep:
    """Read a sweep's folder and compare its runs.

    Raises:
        LungtlError: no run finished, or a finished run lacks a file.
    """
    runs, unfinished = read_runs(folder)
    factors = find_factors(runs)
    levels = list(zip(*factors.values(), strict=True)) if factors else [()] * len(runs)
    test_sets = by_test_set(runs, setting_labels(factors, len(runs)), levels)
    return Sweep(
        runs=runs,
        unfinished=unfinished,
        factors=factors,
        missing=missing_cells(factors),
        test_sets=test_sets,
        comparisons=compare(test_sets[0]),
        effects=measure_effects(test_sets[0], factors),
    )


def cost(tested: TestSet, setting: Setting, key: str) -> float | None:
    """The cost of a setting's training, the mean over its seeds; None where a run did not record it."""
    recorded = [tested.runs[i].document["training"].get(key) for i in setting.members]
    return None if None in recorded else fmean(recorded)


def setting_rows(sweep: Sweep) -> list[Row]:
    """Rows of settings.csv, one per setting: levels, seeds, validation and test scores, costs."""
    rows: list[Row] = []
    for number, tested in enumerate(sweep.test_sets):
        for setting in tested.settings:
            row: Row = {"setting": setting.label, "test_set": number, "chosen": setting is sweep.tested.best}
            row |= dict(zip(sweep.factors, setting.levels, strict=True))
            row |= {"seeds": " ".join(map(str, setting.seeds)), "n": len(tested.test.labels)}
            row |= {"n_patients": len(set(tested.test.patient_ids)), "n_positive": int(tested.test.labels.sum())}
            for name, one in {"val_auroc": setting.validation, **{m: setting.test[m] for m in METRICS}}.items():
                row |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high, f"{name}_sd": one.sd}
            rows.append(row | {key: cost(tested, setting, key) for key in COSTS})
    return rows


def comparison_rows(comparisons: Sequence[Comparison]) -> list[Row]:
    """Rows of comparisons.csv, one per comparison, with raw and adjusted p-values."""
    rows: list[Row] = []
    for one in comparisons:
        auroc, decisions = one.auroc, one.decisions
        row: Row = {"setting": one.setting, "against": one.against, "kind": one.kind}
        row |= {"auroc_difference": auroc.difference, "low": auroc.low, "high": auroc.high, "p": auroc.p_value}
        row |= {"p_holm": one.adjusted, "undefined": auroc.undefined}
        row |= {"only_setting_right": decisions and decisions.only_first_right}
        row |= {"only_other_right": decisions and decisions.only_second_right}
        rows.append(row | {"p_mcnemar": decisions and decisions.p_value, "p_mcnemar_holm": one.decisions_adjusted})
    return rows


def effect_rows(effects: Sequence[Effect]) -> list[Row]:
    """Rows of effects.csv, one per level of a factor."""
    return [
        {"factor": one.factor, "level": one.level, "reference": one.reference, "pairs": one.pairs,
         "auroc_difference": one.difference.value, "low": one.difference.low, "high": one.difference.high,
         "sd_between_pairs": one.difference.sd}
        for one in effects
    ]  # fmt: skip
