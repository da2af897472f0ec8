"""The HTML page of a sweep: the data that `page.html.j2` shows."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from lungtl.evaluation.estimate import Estimate
from lungtl.evaluation.formatting import (
    HEADLINES,
    UNDEFINED,
    format_amount,
    format_estimate,
    format_number,
    format_p_value,
    plural,
)
from lungtl.evaluation.page import Cell, Row, Table, csp_hash, render
from lungtl.sweeps.report.about import facts, margins
from lungtl.sweeps.report.comparable import TestSet
from lungtl.sweeps.report.comparisons import Comparison
from lungtl.sweeps.report.factors import DATA, differing_settings
from lungtl.sweeps.report.remarks import best_setting, describe_levels, join_items, warnings
from lungtl.sweeps.report.sweep import COSTS, Sweep, cost

HERE = Path(__file__).parent
TEMPLATE = "page.html.j2"


def write_page(sweep: Sweep, title: str, figures: Mapping[str, Path], path: Path) -> None:
    """Write the page, one self-contained file with the figures of `draw_figures`."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    data = page_data(sweep, path.parent)
    text = render(HERE / TEMPLATE, figures, title=title, script=Markup(script), script_hash=csp_hash(script), **data)
    path.write_text(text, encoding="utf-8")


def page_data(sweep: Sweep, out: Path) -> dict[str, Any]:
    """The variables of the template, except for its style, script and images; links start at `out`."""
    test, settings = sweep.tested.test, sum(len(tested.settings) for tested in sweep.test_sets)
    with_best = [one for one in sweep.comparisons if one.kind == "best"]
    controls = [one for one in sweep.comparisons if one.kind == "control"]
    families = {one.against: one.family for one in controls}
    return {
        "counts": f"{plural(len(sweep.runs), 'finished run')} of {plural(settings, 'setting')}; test set of "
        f"{plural(len(test.labels), 'case')} ({test.labels.sum()} positive) from "
        f"{plural(len(set(test.patient_ids)), 'patient')}.",
        "best": best_setting(sweep),
        "margins": margins(sweep),
        "facts": facts(sweep),
        "runs": _runs(sweep, out),
        "warnings": warnings(sweep),
        "settings": _settings(sweep),
        "varied": _varied(sweep),
        "missing": join_items([describe_levels(sweep, one) for one in sweep.missing.first], sweep.missing.number),
        "unfinished": _unfinished(sweep),
        "effects": _effects(sweep),
        "with_best": with_best,
        "best_tests": _best_tests(with_best),
        "control_tests": _control_tests(controls),
        "control_families": "; ".join(f"{plural(n, 'p-value')} against {name}" for name, n in families.items()),
        "configs": _configs(sweep),
    }


def _settings(sweep: Sweep) -> Table:
    several = len(sweep.test_sets) > 1
    names = [*(sweep.factors or ["setting"]), *(["test set"] if several else [])]
    costs = [key for key in COSTS if any(cost(t, s, key) is not None for t in sweep.test_sets for s in t.settings)]
    numbers = ["validation AUROC", "test AUROC", *list(HEADLINES.values())[1:], *(COSTS[key] for key in costs)]
    rows: list[Row] = []
    for number, tested in enumerate(sweep.test_sets, start=1):
        for place, setting in enumerate(tested.settings, start=1):
            texts = [*(setting.levels or [setting.label]), *([str(number)] if several else [])]
            estimates = [setting.validation, *(setting.test[name] for name in HEADLINES)]
            amounts = [_amount(cost(tested, setting, key)) for key in costs]
            counts = _amount(len(setting.seeds))
            rows.append([_amount(place), *map(Cell, texts), counts, *map(_estimate, estimates), *amounts])
    return Table(
        head=[_number("#"), *map(Cell, names), _number("seeds"), *map(_number, numbers)],
        rows=rows,
        foot=_control_rows(sweep.tested, len(names) + 3, len(costs)),
        best=0 if sweep.tested.best else None,
    )


def _runs(sweep: Sweep, out: Path) -> Table:
    """The finished runs, each with a link to its folder."""
    rows = []
    for tested in sweep.test_sets:
        for i, run in enumerate(tested.runs):
            auroc = format_estimate(run.document["bag"]["metrics"]["auroc"])
            mlflow = str(run.document.get("run", {}).get("mlflow_run_id") or "")
            folder = os.path.relpath(run.folder, out)
            rows.append([Cell(tested.name_of(i)), _number(auroc), Cell(mlflow), Cell(run.name, link=f"{folder}/")])
    head = [Cell("setting and seed"), _number("test AUROC"), Cell("MLflow run"), Cell("folder")]
    if not any(row[2].text for row in rows):  # not tracked
        head, rows = [*head[:2], head[3]], [[*row[:2], row[3]] for row in rows]
    return Table(head, rows, sortable=False)


def _control_rows(tested: TestSet, span: int, costs: int) -> list[Row]:
    """One row per control, its name over `span` columns; the mean of the runs where each has its own."""
    rows: list[Row] = []
    documents = [run.document["controls"] for run in tested.runs]
    for name in dict.fromkeys(name for controls in documents for name in controls):
        tables = [controls[name]["metrics"] for controls in documents if name in controls]
        cells = []
        for metric in HEADLINES:
            values = [table[metric]["value"] for table in tables]
            if None in values:
                cells.append(_number(UNDEFINED))
            elif len(set(values)) == 1:
                cells.append(_number(format_estimate(tables[0][metric], separator="\n")))
            else:
                spread = f"({format_number(min(values))} to {format_number(max(values))})"
                cells.append(_number(f"{format_number(fmean(values))}\n{spread}"))
        differ = any(table != tables[0] for table in tables)
        title = f"control: {name}" + (", each run's own: mean (lowest to highest)" if differ else "")
        rows.append([Cell(title, span=span), *cells, *[_number("")] * costs])
    return rows


def _varied(sweep: Sweep) -> Table:
    levels = {name: list(dict.fromkeys(values)) for name, values in sweep.factors.items()}
    levels["seed"] = [str(seed) for seed in sorted({run.seed for run in sweep.runs})]
    return _text_table(("factor", "levels"), [(name, join_items(values)) for name, values in levels.items()])


def _unfinished(sweep: Sweep) -> Table | None:
    rows = [(one.name, one.settings, one.state, one.error) for one in sweep.unfinished]
    return _text_table(("run", "settings", "state", "error"), rows) if rows else None


def _effects(sweep: Sweep) -> Table | None:
    head = [*map(Cell, ("factor", "level", "instead of")), _number("pairs"), _number("difference in test AUROC")]
    rows = [
        [Cell(one.factor), Cell(one.level), Cell(one.reference), _amount(one.pairs),
         _estimate(one.difference, signed=True)]
        for one in sweep.effects
    ]  # fmt: skip
    return Table(head, rows) if rows else None


TEST_COLUMNS = ("difference in AUROC", "p", "p adjusted")


def _best_tests(comparisons: Sequence[Comparison]) -> Table:
    names = (*TEST_COLUMNS, "only this correct", "only the best correct", "p, decisions", "p adjusted, decisions")
    rows = [[Cell(one.setting), *_test(one), *_decisions(one)] for one in comparisons]
    return Table([Cell("setting"), *map(_number, names)], rows)


def _control_tests(comparisons: Sequence[Comparison]) -> Table:
    rows = [[Cell(one.setting), Cell(one.against), *_test(one)] for one in comparisons]
    return Table([Cell("setting"), Cell("control"), *map(_number, TEST_COLUMNS)], rows)


def _test(one: Comparison) -> Row:
    gain = one.auroc.estimate
    shown = _number(f"{UNDEFINED}: {gain.undefined}") if gain.value is None else _estimate(gain, signed=True)
    return [shown, _p_value(one.auroc.p_value), _p_value(one.adjusted)]


def _decisions(one: Comparison) -> Row:
    if one.decisions is None:
        return [_number("")] * 4
    counts = (one.decisions.only_first_right, one.decisions.only_second_right)
    return [*map(_amount, counts), _p_value(one.decisions.p_value), _p_value(one.decisions_adjusted)]


def _configs(sweep: Sweep) -> dict[str, Any]:
    """The settings that differ between any two runs, and each run's values of them."""
    differing = differing_settings(sweep.runs) | {
        "seed": [str(run.seed) for run in sweep.runs],
        DATA: [run.store_fingerprint for run in sweep.runs],
    }
    names = [""] * len(sweep.runs)
    for tested in sweep.test_sets:
        for run, index in enumerate(tested.indices):
            names[index] = tested.name_of(run) + (", repeated" if run in tested.duplicates else "")
    runs = [
        {"name": f"{run.name}: {name}", "values": [values[i] for values in differing.values()]}
        for i, (run, name) in enumerate(zip(sweep.runs, names, strict=True))
    ]
    return {"keys": list(differing), "runs": runs}


def _text_table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    return Table([*map(Cell, head)], [[*map(Cell, row)] for row in rows], sortable=False)


def _number(text: str) -> Cell:
    return Cell(text, number=True)


def _estimate(estimate: Estimate, signed: bool = False) -> Cell:
    """'0.846 ± 0.022' above '[0.704, 0.958]'."""
    return Cell(format_estimate(estimate, signed=signed, separator="\n"), estimate.value, number=True)


def _p_value(p: float | None) -> Cell:
    return Cell(format_p_value(p), p, number=True)


def _amount(value: float | None) -> Cell:
    return Cell(format_amount(value), value, number=True)
