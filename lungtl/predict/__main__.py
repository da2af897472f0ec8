"""`python -m lungtl.predict model=RUN input=FOLDER`: a malignancy probability and a page for every CT series.

Research software: not a medical device, not for any decision about a patient.
"""

from __future__ import annotations

import logging
from datetime import datetime

from lungtl.predict.references import quote_models
from lungtl.settings import command_line
from lungtl.settings.errors import Incomplete, LungtlError
from lungtl.settings.schema import PredictConfig

log = logging.getLogger(__name__)
NO_ACTION = "no action required"
"""How the remedy of a refusal begins that leaves nothing to do, as of another modality."""


def run(config: PredictConfig) -> None:
    """Predict every readable series, or the nodules of a table; list the others with the reason. Prints the folder.

    Raises:
        LungtlError: nothing could be predicted.
        Incomplete: something was refused.
    """
    log.info("predicting the CT series in %s", config.input)
    from lungtl.predict.command import predict_all
    from lungtl.predict.outputs import DOCUMENT, QUARANTINE, locked

    with locked(config.output):
        outputs = predict_all(config, f"{datetime.now().astimezone():%Y-%m-%dT%H:%M:%S%z}")
    refused = [one for one in outputs.refused if not one.remedy.startswith(NO_ACTION)]
    if not outputs.series:
        raise LungtlError(
            f"nothing in {config.input} could be predicted; the reasons are in {config.output / QUARANTINE}"
        )
    log.info("%d predicted, %d refused; not a medical device", len(outputs.series), len(refused))
    print(config.output)
    if refused:
        raise Incomplete(
            f"{len(refused)} refused, first {refused[0].item}: {refused[0].reason}; all are in "
            f"{config.output / QUARANTINE}, the others in {DOCUMENT}"
        )


if __name__ == "__main__":
    command_line.main("predict", PredictConfig, run, expand=quote_models)
