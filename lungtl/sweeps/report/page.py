"""The page of a sweep: what was varied, what came out, how sure that is, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

from lungtl.evaluation.delong import PairedAuroc
from lungtl.sweeps.report import html
from lungtl.sweeps.report.comparable import Score, TestSet
from lungtl.sweeps.report.comparisons import Comparison
from lungtl.sweeps.report.factors import DATA, differing_settings
from lungtl.sweeps.report.html import Cell
from lungtl.sweeps.report.remarks import cell, choice, listed, warnings
from lungtl.sweeps.report.sweep import COSTS, Sweep, cost

SHOWN = {"auprc": "AUPRC", "sensitivity": "sensitivity", "specificity": "specificity", "brier": "Brier score"}
"""Metric beside the AUROC -> how it is called."""

METHOD = (
    "A setting is what differs in more than the seed; other data make another setting. Its numbers are means over its "
    "seeds; ± is the standard deviation between seeds.",
    "Intervals are 95 % percentile intervals of 1000 resamples of the patients, the same resamples for all runs. They "
    "say how much other patients would change the number, not how much another seed or another training set would. A "
    "rate of 0 or 1 has the exact binomial interval, with the patients as trials; another number that is 0 or 1 on "
    "every resample, such as an AUROC of 1, has none.",
    "The best setting is chosen by its AUROC on the validation bags, which also chose the epochs and so flatter it; "
    "test bags choose nothing.",
    "Paired tests compare the mean AUROC over a setting's seeds with another's on the same test bags, by DeLong's test "
    "with patients as clusters. Decisions are compared between runs of the same seed by McNemar's exact test, a toss a "
    "patient, each run at its threshold with the highest Youden index on its validation bags; counts are of bags, "
    "summed over the seeds. Each run has an untrained control of its own; a setting is compared with the mean AUROC of "
    "those of its runs.",
    "P-values are adjusted by Holm's method, together where they answer one question: AUROC against the best setting; "
    "decisions against the best setting; for each control, AUROC against that control. Whether anything at all on the "
    "page would seem to differ by chance is not adjusted for.",
    "ROC curves are of probabilities averaged over the seeds, and so are the areas in that figure: they may be above "
    "the mean AUROC of the seeds.",
    "Training seconds are those of all attempts of a run, of a killed one up to its last whole epoch. They leave out "
    "preparing the data and the pass that fills the feature cache, and runs that were trained at the same time on one "
    "machine shared its cores: compare them with care.",
    "An effect is the mean difference in test AUROC over all pairs of runs that differ in the one factor alone, the "
    "seed being the same; each pair counts the same, and ± is the standard deviation between pairs. Intervals of "
    "effects are not adjusted for their number.",
)
TITLES = {
    "settings": "Settings",
    "varied": "What was varied",
    "effects": "Effect of each factor",
    "tests": "Paired tests",
    "cost": "Cost and quality",
    "difference": "What differs between two runs",
    "method": "How the numbers are made",
}


def write_page(sweep: Sweep, title: str, figures: Mapping[str, Path], path: Path) -> None:
    """Write the page, one file that needs no other.

    Args:
        sweep: what it is of.
        title: its own.
        figures: intervals, roc, and, where there is something to draw, effects and cost -> PNG.
        path: of the file.
    """
    test, settings = sweep.tested.test, sum(len(tested.settings) for tested in sweep.test_sets)
    counts = (
        f"{len(sweep.runs)} finished runs of {settings} setting{'s' if settings > 1 else ''}; test set of "
        f"{len(test.labels)} bags ({test.labels.sum()} positive) of {len(set(test.patient_ids))} patients. Research "
        "software, not a medical device."
    )
    remarks = warnings(sweep)
    sections = {
        "settings": _settings(sweep, figures),
        "varied": _varied(sweep),
        "effects": _effects(sweep, figures),
        "tests": _tests(sweep.comparisons),
        "cost": _cost(figures),
        "difference": _difference(sweep),
        "method": html.listing(METHOD),
    }
    links = "".join(f'<a href="#{name}">{TITLES[name]}</a>' for name in sections)
    body = [
        html.paragraph(counts), html.paragraph(choice(sweep), "choice"),
        html.listing(remarks, "warnings") if remarks else "", f"<nav>{links}</nav>",
        *(html.section(name, TITLES[name], content) for name, content in sections.items()),
    ]  # fmt: skip
    path.write_text(html.page(title, "\n".join(body)), encoding="utf-8")


def _settings(sweep: Sweep, figures: Mapping[str, Path]) -> str:
    several = len(sweep.test_sets) > 1
    names = [*(sweep.factors or ["setting"]), *(["test set"] if several else []), "seeds"]
    kept = [key for key in COSTS if any(cost(t, s, key) is not None for t in sweep.test_sets for s in t.settings)]
    head = ["#", *names, "validation AUROC", "test AUROC", *SHOWN.values(), *(COSTS[key] for key in kept)]
    rows: list[html.Row] = []
    for number, tested in enumerate(sweep.test_sets, start=1):
        for place, setting in enumerate(tested.settings, start=1):
            of = [*(setting.levels or [setting.label]), *([str(number)] if several else [])]
            scores = [setting.validation, setting.test["auroc"], *(setting.test[name] for name in SHOWN)]
            taken = [_amount(cost(tested, setting, key)) for key in kept]
            rows.append([_count(place), *of, _count(len(setting.seeds)), *map(_score, scores), *taken])
    return "".join((
        html.table(
            head, rows, foot=_control_rows(sweep.tested, len(names) + 2, len(kept)),
            numbers=[0, *range(len(names), len(head))],
            chosen=0 if sweep.tested.best else None,
        ),
        html.paragraph(
            "A click on a column's name sorts by it. The setting chosen on validation is marked; the controls below "
            "are predictors that a model has to beat, on the same test bags.", "note",
        ),
        html.image(figures["intervals"], "test AUROC of each setting with its interval"),
        html.image(figures["roc"], "ROC curves of the settings and the controls"),
    ))  # fmt: skip


def _control_rows(tested: TestSet, span: int, costs: int) -> list[html.Row]:
    """A row a control, its name over `span` columns; the mean of the runs where each has its own."""
    rows: list[html.Row] = []
    documents = [run.document["controls"] for run in tested.runs]
    for name in dict.fromkeys(name for controls in documents for name in controls):
        tables = [controls[name]["metrics"] for controls in documents if name in controls]
        cells = []
        for metric in ("auroc", *SHOWN):
            values = [table[metric]["value"] for table in tables]
            estimate = tables[0][metric]
            if None in values:
                cells.append("undefined")
            elif len(set(values)) == 1:
                cells.append(_score(Score(values[0], estimate["low"], estimate["high"])).text)
            else:
                cells.append(f"{fmean(values):.3f}\n({min(values):.3f} to {max(values):.3f})")
        own = any(table != tables[0] for table in tables)
        title = f"control: {name}" + (", each run's own: mean (lowest to highest)" if own else "")
        rows.append([Cell(title, span=span), *cells, *[""] * costs])
    return rows


def _varied(sweep: Sweep) -> str:
    rows: list[html.Row] = [(name, listed(list(dict.fromkeys(levels)))) for name, levels in sweep.factors.items()]
    rows.append(("seed", listed([str(seed) for seed in sorted({run.seed for run in sweep.runs})])))
    parts = [html.table(("factor", "levels"), rows, sortable=False)]
    if sweep.missing:
        parts.append(html.paragraph(f"Missing combinations: {listed([cell(sweep, one) for one in sweep.missing])}."))
    if sweep.unfinished:
        lines = [(one.name, one.described, one.state, one.error) for one in sweep.unfinished]
        parts.append(html.paragraph("Runs without results:"))
        parts.append(html.table(("run", "settings", "state", "error"), lines, sortable=False))
    return "".join(parts)


def _effects(sweep: Sweep, figures: Mapping[str, Path]) -> str:
    if not sweep.effects:
        return html.paragraph("Nothing was varied among the runs that are compared.")
    rows: list[html.Row] = [
        (one.factor, one.level, one.reference, _count(one.pairs), _score(one.difference, signed=True))
        for one in sweep.effects
    ]
    head = ("factor", "level", "instead of", "pairs", "difference in test AUROC")
    drawn = html.image(figures["effects"], "the differences with their intervals") if "effects" in figures else ""
    return html.table(head, rows, numbers=(3, 4)) + drawn


def _tests(comparisons: Sequence[Comparison]) -> str:
    if not comparisons:
        return html.paragraph("There is nothing to compare.")
    auroc = ("difference in AUROC", "p", "p adjusted")
    with_best: list[html.Row] = []
    with_controls: list[html.Row] = []
    for one in comparisons:
        found = [_gain(one.auroc), _p(one.auroc.p_value), _p(one.adjusted)]
        if one.kind == "best":
            with_best.append([one.setting, *found, *_decisions(one)])
        else:
            with_controls.append([one.setting, one.against, *found])
    parts = []
    if with_best:
        decisions = ("bags only this gets right", "bags only the best does", "p, decisions", "p adjusted, decisions")
        parts.append(html.heading(f"Against the best on validation: {comparisons[0].against}"))
        first = comparisons[0]
        note = f"Adjusted together: {first.family} p-values of AUROC"
        compared = max(one.decisions_family for one in comparisons)
        note += f"; {compared} p-values of decisions. Bags are counted in every seed." if compared else "."
        parts.append(html.paragraph(note, "note"))
        parts.append(html.table(["setting", *auroc, *decisions], with_best, numbers=range(1, 8)))
    if with_controls:
        parts.append(html.heading("Against the controls"))
        families = {one.against: one.family for one in comparisons if one.kind == "control"}
        told = [f"{count} p-values against {name}" for name, count in families.items()]
        parts.append(html.paragraph(f"Adjusted together: {'; '.join(told)}.", "note"))
        parts.append(html.table(["setting", "control", *auroc], with_controls, numbers=range(2, 5)))
    return "".join(parts)


def _decisions(one: Comparison) -> list[Cell]:
    if one.decisions is None:
        return [Cell("")] * 4
    right = (one.decisions.only_first_right, one.decisions.only_second_right)
    return [*map(_count, right), _p(one.decisions.p_value), _p(one.decisions_adjusted)]


def _cost(figures: Mapping[str, Path]) -> str:
    if "cost" not in figures:
        return html.paragraph("These runs recorded neither their training time nor how many parameters trained.")
    numbers = html.paragraph("The numbers are those of the table of settings.", "note")
    return numbers + html.image(figures["cost"], "test AUROC of each setting against its cost")


def _difference(sweep: Sweep) -> str:
    differing = differing_settings(sweep.runs) | {
        "seed": [str(run.seed) for run in sweep.runs],
        DATA: [run.store_fingerprint for run in sweep.runs],
    }
    runs = [
        {"name": f"{run.name}: {name}", "values": [values[i] for values in differing.values()]}
        for i, (run, name) in enumerate(zip(sweep.runs, _run_names(sweep), strict=True))
    ]
    return "".join((
        '<p><select id="first" aria-label="first run"></select> and ',
        '<select id="second" aria-label="second run"></select></p>',
        html.table(("setting", "first run", "second run"), [], sortable=False),
        '<p id="same" hidden>These two runs have the same settings.</p>',
        "<noscript>Needs JavaScript.</noscript>",
        html.data_block("configs", {"keys": list(differing), "runs": runs}),
    ))  # fmt: skip


def _run_names(sweep: Sweep) -> list[str]:
    names = [""] * len(sweep.runs)
    for tested in sweep.test_sets:
        for setting in tested.settings:
            for member in setting.members:
                names[tested.places[member]] = f"{setting.label}, seed {tested.runs[member].seed}"
        for again in tested.again:
            names[tested.places[again.place]] = f"{again.setting}, seed {tested.runs[again.place].seed}, again"
    return names


def _score(score: Score, signed: bool = False) -> Cell:
    """'0.846 ± 0.022' above '[0.704, 0.958]'."""
    if score.value is None:
        return Cell("undefined")
    text = _number(score.value, signed)
    if score.sd is not None:
        text += f" ± {score.sd:.3f}"
    if score.low is not None and score.high is not None:
        text += f"\n[{_number(score.low, signed)}, {_number(score.high, signed)}]"
    return Cell(text, score.value)


def _gain(paired: PairedAuroc) -> Cell:
    if paired.difference is None:
        return Cell(f"undefined: {paired.undefined}")
    return _score(Score(paired.difference, paired.low, paired.high), signed=True)


def _number(value: float, signed: bool) -> str:
    return f"{value:+z.3f}" if signed else f"{value:.3f}"


def _p(p: float | None) -> Cell:
    return Cell("") if p is None else Cell("< 0.001" if p < 0.001 else f"{p:.3f}", p)


def _count(number: int) -> Cell:
    return Cell(str(number), number)


def _amount(value: float | None) -> Cell:
    """A cost: '121,476', '12', '3.5'."""
    if value is None:
        return Cell("")
    return Cell(f"{value:,.0f}" if value >= 10 or value == round(value) else f"{value:.1f}", value)
