"""Metrics with patient-level intervals, trivial controls, paired tests and figures. No torch here."""
