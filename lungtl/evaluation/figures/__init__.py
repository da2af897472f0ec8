"""Figures of one evaluation, each a matplotlib Figure 800 pixels wide; `save` writes it as PNG.

Arguments that are not described are those of `lungtl.evaluation`.
"""

from lungtl.evaluation.figures.canvas import save, save_pdf
from lungtl.evaluation.figures.curves import precision_recall, roc
from lungtl.evaluation.figures.decisions import confusion, reliability, score_histogram
from lungtl.evaluation.figures.intervals import dot_with_intervals, subgroup_forest
from lungtl.evaluation.figures.learning import learning_curves
from lungtl.evaluation.figures.montage import montage
from lungtl.evaluation.figures.slices import attention_along_z

__all__ = [
    "attention_along_z",
    "confusion",
    "dot_with_intervals",
    "learning_curves",
    "montage",
    "precision_recall",
    "reliability",
    "roc",
    "save",
    "save_pdf",
    "score_histogram",
    "subgroup_forest",
]
