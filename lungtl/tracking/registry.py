"""Put a run's bundle into MLflow's model registry."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lungtl import __version__
from lungtl.bundle import CONFIG
from lungtl.settings.errors import LungtlError
from lungtl.tracking.served import BUNDLE

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)
MODEL = "model"
SERVED = Path(__file__).with_name("served.py")
EXAMPLE = (2, 64, 64)  # slices, height, width: enough to show the shape


def register_bundle(client: MlflowClient, run_id: str, bundle: Path, name: str, alias: str) -> int:
    """Log a bundle as the run's model, and register it; warns where the slices it takes must be cropped first.

    Args:
        client: of the store that holds the run.
        run_id: the run that trained it.
        bundle: its folder.
        name: of the registered model; created when it is new.
        alias: then points to this version, e.g. best.

    Returns:
        The model's new version.

    Raises:
        LungtlError: MLflow refuses the name, the alias or the run.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.int16), (-1, -1, -1))]),
        Schema([ColSpec("double", "probability"), ColSpec("double", "calibrated", required=False)]),
    )
    provenance = json.loads((bundle / CONFIG).read_text())["provenance"]
    if provenance["crop"] != "none":
        log.warning(
            "this model was trained on slices cropped to the %s; what MLflow loads does not crop, so give it cropped "
            "ones (lungtl.predict crops by itself)", provenance["crop"],
        )  # fmt: skip
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            saved = Path(folder) / MODEL
            mlflow.pyfunc.save_model(
                saved,
                python_model=str(SERVED),
                artifacts={BUNDLE: str(bundle)},
                signature=signature,
                input_example=np.full(EXAMPLE, -1000, np.int16),
                pip_requirements=[f"lungtl=={__version__}"],  # named: finding them out takes MLflow 15 s
            )
            client.log_artifacts(run_id, str(saved), MODEL)
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description="Research software, not a medical device.")
        source = f"{client.get_run(run_id).info.artifact_uri}/{MODEL}"
        version = int(client.create_model_version(name, source, run_id, description=describe(provenance)).version)
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        raise LungtlError(
            f"MLflow refused the model ({str(error).splitlines()[0]}); check name= and alias=, "
            "and give tracking.uri= if the run lies on a server"
        ) from error
    return version


def describe(provenance: Mapping[str, Any]) -> str:
    """What a model takes and gives, for people who see nothing of it but its entry in the registry.

    Args:
        provenance: of its bundle.
    """
    grey = provenance["value_range"]
    values = "HU" if grey is None else f"grey values from {grey[0]:g} to {grey[1]:g}"
    crop = "as the dataset has them" if provenance["crop"] == "none" else f"cropped to the {provenance['crop']}"
    return (
        f"Research software, not a medical device. Takes a scan: int16 [slices, height, width], {values}, 1 mm apart"
        f", {crop}. Gives the probability of malignancy, and the same calibrated. Trained on {provenance['store']}."
    )
