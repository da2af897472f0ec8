"""`python -m lungtl.predict model=RUN input=FOLDER`: a malignancy probability for every CT series below a folder.

Research software: not a medical device, not for any decision about a patient.
"""

from __future__ import annotations

import logging
from pathlib import Path

from lungtl.runs.folder import find_model
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, Refused
from lungtl.settings.schema import PredictConfig

log = logging.getLogger(__name__)
PREDICTIONS, SLICES, QUARANTINE = "predictions.csv", "slices.csv", "quarantine.csv"


def run(config: PredictConfig) -> None:
    """Predict every readable series; list the others with the reason. Prints the folder."""
    import pandas as pd
    from hydra.core.hydra_config import HydraConfig

    from lungtl.data.tables import write_table
    from lungtl.sources.ct.series import find_series
    from lungtl.sources.progress import bar

    folder = Path(HydraConfig.get().runtime.output_dir)
    reference = find_model(config.model, config.data_dir)
    from lungtl.runs.model import Model

    model = Model.open(reference, config.accelerator, config.trust or ())
    model.check_hu()
    found, refusals = find_series(config.input, "input", max_gb=config.max_gb, follow_links=config.follow_links)
    quarantine = [vars(refusal) for refusal in refusals]
    rows, slices = [], []
    with bar("predicting series") as progress:
        for number, series in enumerate(found, start=1):
            try:
                prediction = model.predict_series(series, config.max_gap_mm)
            except Refused as refused:
                quarantine.append({"item": series.uid, "reason": refused.reason, "remedy": remedy_of(refused)})
            else:
                rows.append({"bag_id": series.uid, "probability": prediction.probability,
                             "n_slices": len(prediction.slices), "calibrated": prediction.calibrated})  # fmt: skip
                slices.append(prediction.slices.assign(bag_id=series.uid)[["bag_id", *prediction.slices.columns]])
            progress(number, len(found))
    write_table(pd.DataFrame(quarantine, columns=["item", "reason", "remedy"]), folder / QUARANTINE)
    if not rows:
        raise LungtlError(f"no series below {config.input} could be read; the reasons are in {folder / QUARANTINE}")
    write_table(pd.DataFrame(rows), folder / PREDICTIONS)
    write_table(pd.concat(slices), folder / SLICES)
    for row in rows:
        also = "" if row["calibrated"] is None else f", calibrated {row['calibrated']:.3f}"
        log.info("%s: probability %.3f%s (%d slices)", row["bag_id"], row["probability"], also, row["n_slices"])
    log.info("%d series predicted, %d refused; not a medical device", len(rows), len(quarantine))
    print(folder)


def remedy_of(refused: Refused) -> str:
    """A remedy in the options of this command: the model decides about crops."""
    return refused.remedy.replace("set dataset.crop=none, or ", "").replace("dataset.max_gap_mm=", "max_gap_mm=")


if __name__ == "__main__":
    command_line.main("predict", PredictConfig, run)
