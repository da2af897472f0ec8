"""Register a run's bundle in MLflow's model registry, and fetch it."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

from lungtl.bundle import CONFIG
from lungtl.data.store.files import SUMS, check_checksums
from lungtl.runs.folder import MEMBERS, read_json
from lungtl.settings.errors import LungtlError, UsageError, first_line
from lungtl.settings.version import VERSION
from lungtl.sources.base import fingerprint
from lungtl.tracking.served import BUNDLE

log = logging.getLogger(__name__)
MODEL, STAGED = "model", ".model"
CONTENT = "lungtl.content"  # tag of a version: hash of its bundle's checksums
SERVED = Path(__file__).with_name("served.py")
REFERENCE = re.compile(r"models:/([^/@:]+)(?:@([^/@]+)|/([0-9]+))")
EXAMPLE_SHAPE = (2, 64, 64)  # slices, height, width
SPACING = "pixel_spacing_mm"  # parameter of a served model: row and column spacing


def register_bundle(client: MlflowClient, run_id: str, bundle: Path, name: str, alias: str) -> int:
    """Log a bundle as the run's model and register it, once: then only the alias moves. Warns of cropped slices.

    Args:
        client: of the store that contains the run.
        run_id: the run that trained the bundle.
        bundle: its folder.
        name: of the registered model, which is created if it does not exist.
        alias: set to this version, e.g. best.

    Returns:
        The version of the model.

    Raises:
        LungtlError: the bundle was altered, or MLflow refuses the name, the alias or the run.
    """
    check_checksums(bundle)
    # an ensemble may be made anew
    content = fingerprint([path.read_text(encoding="utf-8") for path in sorted(bundle.rglob(SUMS))])
    provenance = read_json(bundle / CONFIG)["provenance"]
    in_mm = requires_spacing(bundle)
    if provenance["crop"] != "none":
        log.warning(
            "the training slices were cropped to the %s; the registered model does not crop, so pass it cropped slices "
            "(lungtl.predict crops them itself)", provenance["crop"],
        )  # fmt: skip
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    try:
        if not client.search_registered_models(f"name = '{name}'"):
            client.create_registered_model(name, description="Research software, not a medical device.")
        earlier = [
            one.version
            for one in client.search_model_versions(f"run_id = '{run_id}'")
            if one.name == name and one.tags.get(CONTENT) == content
        ]
        if earlier:
            version = min(earlier, key=int)
        else:
            folder = f"{MODEL}-{content[:12]}"  # of its own: another bundle of the run must not replace this version
            _upload(client, run_id, bundle, folder, in_mm)
            source = f"{client.get_run(run_id).info.artifact_uri}/{folder}"
            described = describe(provenance, in_mm)
            tags = {CONTENT: content}
            version = client.create_model_version(name, source, run_id, tags, description=described).version
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException as error:
        raise LungtlError(
            f"MLflow refused the model ({str(error).splitlines()[0]}); check name= and alias=, "
            "and set tracking.uri= if the run is on a server"
        ) from error
    return int(version)


def fetch_registered(client: MlflowClient, reference: str, folder: Path) -> Path:
    """Download the bundle of a registered model, once for each version.

    Args:
        client: of the store.
        reference: models:/NAME@ALIAS or models:/NAME/VERSION.
        folder: gets a folder for each version.

    Returns:
        The bundle's folder.

    Raises:
        UsageError: the reference is of another form.
        LungtlError: there is no such model, or it cannot be downloaded.
    """
    found = REFERENCE.fullmatch(reference)
    if found is None:
        raise UsageError(f"model={reference}: expected models:/NAME@ALIAS or models:/NAME/VERSION")
    name, alias, number = found.groups()
    try:
        version = (
            client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, str(number))
        )
        place = folder / f"{name}-v{version.version}"
        if not place.is_dir():
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as unfinished:
                path = str(version.source).rstrip("/").rpartition("/")[2]
                downloaded = Path(client.download_artifacts(str(version.run_id), path, unfinished))
                (downloaded / "artifacts" / BUNDLE).rename(place)
    except (MlflowException, OSError) as error:
        raise LungtlError(
            f"model={reference} cannot be fetched ({first_line(error)}); check its name, or set tracking.uri= of its "
            "server"
        ) from error
    return place


def requires_spacing(bundle: Path) -> bool:
    """Whether the field of view of a bundle, or of a member of an ensemble, is in mm."""
    configs = [read_json(path) for path in (bundle / CONFIG, *bundle.glob(f"{MEMBERS}/*/{CONFIG}"))]
    return any("crop_mm" in config.get("preprocessing", {}) for config in configs)


def _upload(client: MlflowClient, run_id: str, bundle: Path, folder: str, in_mm: bool) -> None:
    """Log the bundle as an MLflow model, in a folder of the run's artifacts."""
    spacing: dict[str, Any] = {"params": ParamSchema([ParamSpec(SPACING, "double", [], (-1,))])} if in_mm else {}
    signature = ModelSignature(
        Schema([TensorSpec(np.dtype(np.int16), (-1, -1, -1))]),
        Schema([ColSpec("double", "probability"), ColSpec("double", "calibrated", required=False)]),
        **spacing,
    )
    example: Any = np.full(EXAMPLE_SHAPE, -1000, np.int16)
    saved = bundle.with_name(STAGED)  # of a fixed name, so that the next call removes what a killed one left
    shutil.rmtree(saved, ignore_errors=True)
    try:
        mlflow.pyfunc.save_model(
            saved,
            python_model=str(SERVED),
            artifacts={BUNDLE: str(bundle)},
            signature=signature,
            input_example=(example, {SPACING: [0.7, 0.7]}) if in_mm else example,
            model_config={"trust": []},  # without it, load_model(..., model_config=) could not grant trust
            pip_requirements=[f"lungtl=={VERSION}"],  # MLflow would take 15 s to infer them
        )
        client.log_artifacts(run_id, str(saved), folder)
    finally:
        shutil.rmtree(saved, ignore_errors=True)


def describe(provenance: Mapping[str, Any], in_mm: bool = False) -> str:
    """The registry's description of a model: its input, its output and its training data.

    Args:
        provenance: of its bundle.
        in_mm: whether its field of view is in mm, so that it requires the pixel spacing.
    """
    value_range = provenance["value_range"]
    values = "HU" if value_range is None else f"grey values from {value_range[0]:g} to {value_range[1]:g}"
    crop = "not cropped" if provenance["crop"] == "none" else f"cropped to the {provenance['crop']}"
    spacing = f", with params {SPACING}=[row, column]" if in_mm else ""
    unit = provenance.get("bag") or "scan"
    return (
        f"Research software, not a medical device. Input: one {unit}, int16 [slices, height, width], {values}, 1 mm "
        f"apart, {crop}{spacing}. Output: its probability of malignancy, and the calibrated one. "
        f"Trained on {provenance['store']}."
    )
