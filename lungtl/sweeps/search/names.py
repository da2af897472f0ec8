"""Files of a search, and the environment variable that tells a run its trial; without importing Optuna."""

from __future__ import annotations

TRIAL = "LUNGTL_TRIAL"
"""Environment variable of a run that is a trial: its number in the study."""
JOURNAL, LOCK, TABLE = "study.journal", "study.lock", "trials.csv"
"""In the sweep's folder: the study, the lock of the searching process, a readable table of the trials."""
