"""`python -m lungtl.predict model=RUN input=FOLDER`: a probability for every CT series below a folder.

Research software: not a medical device, not for any decision about a patient.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.runs.folder import BUNDLE, find_model
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, Refused
from lungtl.settings.schema import PredictConfig

if TYPE_CHECKING:
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.sources.ct.prepare import Crop
    from lungtl.sources.ct.series import Series

log = logging.getLogger(__name__)
PREDICTIONS, SLICES, QUARANTINE = "predictions.csv", "slices.csv", "quarantine.csv"


def run(config: PredictConfig) -> None:
    """Predict every readable series; the others are listed with the reason. Prints the folder."""
    import pandas as pd
    from hydra.core.hydra_config import HydraConfig

    from lungtl.sources.ct.series import find_series
    from lungtl.sources.progress import bar

    folder = Path(HydraConfig.get().runtime.output_dir)
    model = find_model(config.model, config.data_dir)
    found, refusals = find_series(config.input, "input")
    quarantine = [vars(refusal) for refusal in refusals]

    import torch

    from lungtl.bundle import load_bundle
    from lungtl.evaluation.chosen import read_chosen
    from lungtl.training.devices import pick_device

    where = model / BUNDLE if (model / BUNDLE).is_dir() else model
    classifier, bundle = load_bundle(where)
    chosen = read_chosen(where)
    if bundle["provenance"]["value_range"] is not None:
        raise LungtlError(f"{model} was trained on grey values, not HU; it cannot read DICOM: choose another model")
    classifier.to(pick_device(config.accelerator))
    rows, slices = [], []
    with bar("predicting series") as progress, torch.inference_mode(), classifier.folded():
        for number, series in enumerate(found, start=1):
            try:
                row, table = predict_series(classifier, series, bundle["provenance"]["crop"])
                if not bundle["slices_trained"]:
                    table["p_malignant"] = None
            except Refused as refused:
                quarantine.append({"item": series.uid, "reason": refused.reason, "remedy": refused.remedy})
            else:
                rows.append(row)
                slices.append(table)
            progress(number, len(found))
    pd.DataFrame(quarantine, columns=["item", "reason", "remedy"]).to_csv(folder / QUARANTINE, index=False)
    if not rows:
        raise LungtlError(f"no series below {config.input} could be read; the reasons are in {folder / QUARANTINE}")
    predicted = pd.DataFrame(rows)
    calibrated = None if chosen is None else chosen.calibrated(predicted["probability"])
    predicted["calibrated"] = calibrated
    predicted.to_csv(folder / PREDICTIONS, index=False)
    pd.concat(slices).to_csv(folder / SLICES, index=False)
    for one in predicted.to_dict("records"):
        also = "" if calibrated is None else f", calibrated {one['calibrated']:.3f}"
        log.info("%s: probability %.3f%s (%d slices)", one["bag_id"], one["probability"], also, one["n_slices"])
    log.info("%d series predicted, %d refused; not a medical device", len(rows), len(quarantine))
    print(folder)


def predict_series(classifier: BagClassifier, series: Series, crop: Crop) -> tuple[dict[str, Any], Any]:
    """One series, cropped as those that the classifier was trained on.

    Returns:
        bag_id, probability, n_slices; and a table index, z_mm, weight, p_malignant of its slices.

    Raises:
        Refused: its pixels cannot be read.
    """
    import numpy as np
    import pandas as pd
    import torch

    from lungtl.data.bags import read_frames
    from lungtl.sources.base import MALIGNANT
    from lungtl.sources.ct.prepare import prepare_series

    volume, _ = prepare_series(series, crop=crop)
    device = next(classifier.parameters()).device
    with torch.inference_mode():
        frames = read_frames(volume.hu, np.arange(len(volume.hu)), classifier.preprocessor.neighbours)
        output = classifier([frames.to(device)])
    probability = float(output.bag_logits.cpu().double().sigmoid())
    table = pd.DataFrame(
        {
            "bag_id": series.uid,
            "index": np.arange(len(volume.hu)),
            "z_mm": volume.z_mm,
            "weight": output.weights[0].cpu().double().numpy(),
            "p_malignant": output.slice_logits[0].cpu().double().softmax(-1)[:, MALIGNANT].numpy(),
        }
    )
    return {"bag_id": series.uid, "probability": probability, "n_slices": len(volume.hu)}, table


if __name__ == "__main__":
    command_line.main("predict", PredictConfig, run)
