"""The model card: `card.md` for readers, `card.json` for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from typing import Any

from lungtl.bundle.ranges import Ranges
from lungtl.evaluation.formatting import INTERVALS, Rows, markdown_table
from lungtl.settings.version import VERSION

RESEARCH_ONLY = "Research software, not a medical device: not for diagnosis or any decision about a patient."
MEANINGLESS = "A model trained on synthetic scans (phantoms): the probability means nothing clinically."
INTENDED_USE = f"{RESEARCH_ONLY} Trained and scored on the data named here alone."
PAPER = (
    "LeJeune, Blincoe, Jenkins, Toomey, Xin: A Transfer Learning Approach to Aggregated DICOM Lung Tumor "
    "Classification. Case Western Reserve University"
)
PACKAGES = ("timm", "safetensors", "pydicom", "scipy")
"""That a prediction uses besides torch and NumPy."""
LIDC_LICENCE = "CC BY 3.0 (LIDC-IDRI, The Cancer Imaging Archive)"
DATA_LICENCES = {"lidc": LIDC_LICENCE, "lidc_slices": LIDC_LICENCE,
                 "phantom": "synthetic scans of lungtl with annotations of LIDC-IDRI (CC BY 3.0)"}  # fmt: skip
"""Kind of dataset -> its licence."""


def model_card(
    title: str, settings: Mapping[str, Any], *tables: Rows, phantom: bool = False, members: int | None = None
) -> str:
    """The bundle's README: what the model is, what it is for, how it scored.

    Args:
        title: the run's name.
        settings: dataset, backbone, freezing, aggregator, fingerprints; what is empty or nested is omitted.
        tables: of the metrics, header first; empty ones are omitted.
        phantom: whether synthetic scans trained it.
        members: of an ensemble, whose tables show how each of them scored alone.
    """
    what, whose = "A chest CT malignancy model", "the validation split"
    if members is not None:
        what, whose = f"An ensemble of {members} chest CT malignancy models", "the members' validation predictions"
    shown = {key: value for key, value in settings.items() if value not in (None, "") and not isinstance(value, dict)}
    lines = [
        f"# {title}",
        "",
        f"{what} trained with lungtl. **Research software: not a medical device**; not for",
        "diagnosis or any decision about a patient. Trained and scored on the data named below alone.",
        *(["", f"**{MEANINGLESS}**"] if phantom else []),
        "",
        *(f"- {key}: {value}" for key, value in shown.items()),
        "",
        "Test metrics next to those of trivial predictors on the same split."
        if members is None
        else "The ensemble's probability is the mean of its members' probabilities.",
        f"{INTERVALS}.",
        "",
        *(line for rows in tables if rows for line in [*markdown_table(rows), ""]),
        f"Calibration and thresholds were chosen on {whose} (`calibration.json`).",
        "",
        "Load it: `import lungtl; model = lungtl.load(FOLDER)`; then `model.predict(volume_hu, spacing_mm=...)`.",
        "",
    ]
    return "\n".join(lines)


def card_document(
    *,
    name: str,
    unit: str,
    value_range: Sequence[int] | None,
    labels: str,
    provenance: Mapping[str, Any],
    documents: Sequence[Mapping[str, Any]],
    preprocessing: Sequence[Mapping[str, Any]],
    weights_licence: str,
    ranges: Ranges | None,
) -> dict[str, Any]:
    """card.json: the fields of a MONAI bundle's metadata.json that apply, and what a reader of results needs.

    Args:
        name: of the run or ensemble.
        unit: what gets one probability: scan, nodule or patient.
        value_range: of grey values; None for HU.
        labels: the label rule, in words.
        provenance: store, fingerprints, weights.
        documents: the metrics.json of the run, or of each member of an ensemble.
        preprocessing: of the network or networks.
        weights_licence: of the starting weights; "" if it is not stated.
        ranges: of the training bags.
    """
    values = "Hounsfield units" if value_range is None else f"grey values from {value_range[0]} to {value_range[1]}"
    scores = [
        {
            "split": document["split"],
            "n": document["bag"]["n"],
            "n_positive": document["bag"]["n_positive"],
            "metrics": {**document["bag"]["metrics"], "auroc_delong": document["bag"]["auroc_delong"]},
            "controls": {key: table["metrics"]["auroc"] for key, table in document["controls"].items()},
            "gains": document["gains"],
            "operating_points": document["operating_points"],
        }
        for document in documents
    ]
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": "as trained"},
        "name": name,
        "task": f"Malignancy in chest CT: one probability for each {unit}",
        "description": "Slices are embedded by an ImageNet backbone and aggregated into one probability of malignancy.",
        "authors": "",
        "copyright": "",
        "intended_use": INTENDED_USE,
        "references": [PAPER],
        "lungtl_version": VERSION,
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {package: version(package) for package in PACKAGES},
        "data_source": provenance.get("store"),
        "data_type": "CT slices" if value_range is None else "images",
        "image_classes": f"one channel, {values}",
        "label_classes": f"0: not malignant, 1: malignant; {labels}",
        "pred_classes": f"probability of malignancy of a {unit}",
        "eval_metrics": scores[0]["metrics"] if len(scores) == 1 else {},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image", "format": "hounsfield" if value_range is None else "magnitude", "modality": "CT",
                    "num_channels": 1, "spatial_shape": ["*", "*", "*"], "dtype": "int16",
                    "value_range": [-1024, 3071] if value_range is None else list(value_range),
                    "is_patch_data": unit != "scan",
                    "channel_def": {"0": "slices from the feet to the head, 1 mm apart"},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities", "format": "classes", "num_channels": 1, "spatial_shape": [1],
                    "dtype": "float64", "value_range": [0, 1], "is_patch_data": False,
                    "channel_def": {"0": "malignant"},
                }
            },
        },
        "label_rule": labels,
        "preprocessing": list(preprocessing),
        "scores": scores,
        "fingerprints": {key: value for key, value in provenance.items() if "fingerprint" in key or "sha256" in key},
        "licences": {
            "lungtl": "Apache-2.0",
            "starting_weights": weights_licence or "unknown",
            "training_data": DATA_LICENCES.get("" if ranges is None else ranges.source, "as given by the data's owner"),
        },
        "training_ranges": None if ranges is None else asdict(ranges),
    }  # fmt: skip
