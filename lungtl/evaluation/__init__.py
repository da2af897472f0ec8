"""Metrics with patient-level intervals, trivial controls, paired tests and figures. No torch here.

All functions refuse invalid labels, probabilities, thresholds and patient ids with a LungtlError (see `checks`).
"""
