"""Figures of one evaluation, each a matplotlib Figure 800 pixels wide; `save` writes it as PNG."""

from lungtl.evaluation.figures.canvas import save
from lungtl.evaluation.figures.curves import precision_recall, roc
from lungtl.evaluation.figures.decisions import confusion, reliability
from lungtl.evaluation.figures.slices import attention_along_z, montage

__all__ = ["attention_along_z", "confusion", "montage", "precision_recall", "reliability", "roc", "save"]
