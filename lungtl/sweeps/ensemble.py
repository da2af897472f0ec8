"""The runs of a sweep as one model, if they are folds or seeds of a single setting."""

from __future__ import annotations

import logging
from pathlib import Path

from lungtl.runs.ensemble import write_ensemble
from lungtl.runs.folder import BUNDLE
from lungtl.settings.typed import assigned, typed
from lungtl.sweeps.folds.runs import find_runs
from lungtl.sweeps.parent import parent_of
from lungtl.sweeps.state import read_states

log = logging.getLogger(__name__)


def write_sweep_ensemble(sweep: Path) -> None:
    """Write the ensemble of a sweep's runs into its folder; nothing for fewer than two or several settings.

    Raises:
        LungtlError: the runs differ in their data.
    """
    if sum((folder / BUNDLE).is_dir() for folder in read_states(sweep)) < 2:
        return
    runs = [run for run in find_runs(sweep) if (run.folder / BUNDLE).is_dir()]
    if len({run.setting for run in runs}) > 1:
        return
    name = f"ensemble of {len(runs)}: {runs[0].name}"
    write_ensemble([run.folder for run in runs], sweep, name, parent_of(sweep))
    log.info("the %d runs as one model: %s", len(runs), typed("evaluate", assigned("model", sweep), "dataset=..."))
