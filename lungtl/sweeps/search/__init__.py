"""The search of a sweep's values with Optuna, which is an extra: this module and the sweeper import without it."""

TRIAL = "LUNGTL_TRIAL"
"""Environment variable of a run that is a trial: its number in the study."""
JOURNAL, LOCK, TABLE = "study.journal", "study.lock", "trials.csv"
"""In the sweep's folder: the study, the lock of the searching process, a readable table of the trials."""
