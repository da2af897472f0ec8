"""How good a run is: metrics with patient-level intervals, trivial controls, figures. No torch in here."""
