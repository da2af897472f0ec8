"""What a search leaves in the sweep's folder and in a trial's, and how a trial is told its number."""

from __future__ import annotations

TRIAL = "LUNGTL_TRIAL"
"""Environment variable of a run that is a trial: its number in the study."""
STUDY = "search"
"""Name of the one study in a journal."""
JOURNAL, LOCK, TABLE = "study.journal", "study.lock", "trials.csv"
"""In the sweep's folder: the study, the lock of the process that searches, the trials for reading."""
PRUNED = "pruned.json"
"""In the folder of a run that was stopped early because it was worse than the others."""
