"""The table of settings for papers: `table.tex`, with booktabs."""

from __future__ import annotations

import re

from lungtl.evaluation.formatting import HEADLINES, format_estimate
from lungtl.sweeps.report.sweep import Sweep

SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def latex_table(sweep: Sweep) -> str:
    """A tabular of the compared settings, the best on validation first; requires the package booktabs."""
    names = list(sweep.factors) or ["setting"]
    rows = [[*names, "seeds", "validation AUROC", *(f"test {title}" for title in HEADLINES.values())]]
    for setting in sweep.tested.settings:
        scores = [setting.validation, *(setting.test[name] for name in HEADLINES)]
        rows.append([*(setting.levels or [setting.label]), str(len(setting.seeds)), *map(format_estimate, scores)])
    head, *body = (" & ".join(map(escape, row)) + r" \\" for row in rows)
    columns = "l" * len(names) + "r" * (len(rows[0]) - len(names))
    lines = ["% \\usepackage{booktabs}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *body,
             r"\bottomrule", r"\end{tabular}"]  # fmt: skip
    return "\n".join([*lines, ""])


def escape(text: str) -> str:
    """A text without LaTeX's special characters."""
    escaped = re.sub(r"[\\~^]|[&%$#_{}]", lambda found: SPECIAL.get(found[0], "\\" + found[0]), text)
    return escaped.replace("±", r"$\pm$")
