"""What came of a launched trial, as its folder and its job say."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from optuna.trial import TrialState

from lungtl.sweeps.search.names import PRUNED

if TYPE_CHECKING:
    import optuna
    from hydra.core.utils import JobReturn

log = logging.getLogger(__name__)


def tell(study: optuna.Study, number: int, job: JobReturn) -> None:
    """Tell the study how a trial ended; nothing where another process still runs it.

    Args:
        study: of the search.
        number: of the trial.
        job: as the launcher gave it back, perhaps from another machine; its value is the validation metric.
    """
    from hydra.core.utils import JobStatus

    from lungtl.sweeps.state import standing

    assert job.hydra_cfg is not None
    folder = Path(job.hydra_cfg.hydra.runtime.output_dir)
    if job.status != JobStatus.COMPLETED:
        log.error("trial %d failed: %s", number, job._return_value)
        study.tell(number, state=TrialState.FAIL)
        return
    how = standing(folder)
    if how in ("running", "killed"):  # by another process: it was launched before the search itself was killed
        log.warning("trial %d is left to the process that trains it, or to the next call of this search", number)
    elif how == "failed":
        study.tell(number, state=TrialState.FAIL)
    elif (folder / PRUNED).is_file():
        study.tell(number, state=TrialState.PRUNED)
    else:
        study.tell(number, job.return_value)
