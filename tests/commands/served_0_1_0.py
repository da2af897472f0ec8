"""What models registered by version 0.1.0 contain, word for word below: lungtl must keep what it imports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

BUNDLE = "bundle"


class ServedBundle(PythonModel):
    """One scan's slices in, its malignancy probability out. Research software, not a medical device."""

    def load_context(self, context: Any) -> None:
        from lungtl.bundle import load_bundle
        from lungtl.evaluation.chosen import read_chosen

        folder = Path(context.artifacts[BUNDLE])
        self.classifier, _ = load_bundle(folder)
        self.chosen = read_chosen(folder)

    # no type hints: MLflow would take them for a schema of its own
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify one scan.

        Args:
            context: of MLflow; not used.
            model_input: int16 [S, H, W], HU (or the dataset's grey values), 1 mm apart, cropped as the training data
                were.
            params: none.

        Returns:
            A table of one row, as in the run's predictions.csv: probability and calibrated, float64; calibrated is
            NaN where the validation bags allowed no calibration, or the bundle has none.
        """
        import pandas as pd
        import torch

        from lungtl.data.bags import read_frames

        frames = read_frames(model_input, np.arange(len(model_input)), self.classifier.preprocessor.neighbours)
        with torch.inference_mode():
            logits = self.classifier([frames]).bag_logits
        probability = logits.double().sigmoid().numpy()
        calibrated = None if self.chosen is None else self.chosen.calibrated(probability)
        return pd.DataFrame({"probability": probability, "calibrated": np.nan if calibrated is None else calibrated})


set_model(ServedBundle())
