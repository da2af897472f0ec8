"""A bundle as an MLflow model. MLflow stores and runs this file, so that nothing is pickled.

A registered model contains a copy of the version that registered it: what any version imported from lungtl must stay.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from lungtl.runs.model import Model

BUNDLE = "bundle"


class ServedBundle(PythonModel):
    """Predicts a scan's malignancy probability from its slices. Research software, not a medical device."""

    def load_context(self, context: Any) -> None:
        """Load the bundle; `load_model(uri, model_config={"trust": ["mylab"]})` allows classes of that package."""
        trust = (context.model_config or {}).get("trust", ())
        self.model = Model.open(Path(context.artifacts[BUNDLE]), trust=trust)

    # no type hints: MLflow would use them as a schema of its own
    def predict(self, context, model_input, params=None):  # type: ignore[no-untyped-def]
        """Classify one scan.

        Args:
            context: passed by MLflow; not used.
            model_input: int16 [S, H, W], HU (or the dataset's grey values), 1 mm apart, cropped like the training data.
            params: {"pixel_spacing_mm": [row, column]}, which a model with image.crop_mm requires.

        Returns:
            A table of one row, as in the run's predictions.csv: probability and calibrated, float64. calibrated is NaN
            if the bundle has no calibration or the validation split allowed none.
        """
        row, column = list((params or {}).get("pixel_spacing_mm", ())) or (np.nan, np.nan)
        found = self.model.predict_voxels(np.asarray(model_input), None, (float(row), float(column)))
        calibrated = np.nan if found.calibrated is None else found.calibrated
        return pd.DataFrame({"probability": [found.probability], "calibrated": [calibrated]})


set_model(ServedBundle())
