"""The runs of a cross-validation, and their pooled results."""
