"""Figures of one evaluation, each a matplotlib Figure 800 pixels wide; `save` writes it as PNG."""

from lungtl.evaluation.figures.canvas import save
from lungtl.evaluation.figures.curves import precision_recall, roc
from lungtl.evaluation.figures.decisions import confusion, reliability
from lungtl.evaluation.figures.heatmaps import gradcam_montage
from lungtl.evaluation.figures.intervals import dot_with_intervals, subgroup_forest
from lungtl.evaluation.figures.scores import score_histogram
from lungtl.evaluation.figures.slices import attention_along_z, montage

__all__ = [
    "attention_along_z",
    "confusion",
    "dot_with_intervals",
    "gradcam_montage",
    "montage",
    "precision_recall",
    "reliability",
    "roc",
    "save",
    "score_histogram",
    "subgroup_forest",
]
