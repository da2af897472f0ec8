"""Export a model, compare the file with the model, and describe it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from lungtl.bundle import WEIGHTS
from lungtl.bundle.card import RESEARCH_ONLY
from lungtl.data.store.files import explain_write_errors, whole_file
from lungtl.evaluation.chosen import FILE as CALIBRATION
from lungtl.export.formats import Format, Run, run_onnx, run_torch, to_onnx, to_torch, trace
from lungtl.export.network import ExportedNetwork
from lungtl.models.compat import ensure_torchvision
from lungtl.runs.model import Model
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.version import VERSION
from lungtl.sources.base import sha256

TOLERANCE = 1e-4
"""The largest accepted difference from the model's own probability and weights."""
SLICES = (1, 2, 9)
"""Of the scans that are compared."""


def export(model: Model, format: Format, path: Path) -> float:
    """Write a model as one file.

    Returns:
        The largest difference from the model on random scans.

    Raises:
        UsageError: the file's suffix is not that of its format.
        LungtlError: it cannot be exported, or its file computes something else.
    """
    if format == "torch" and path.suffix != ".pt2":  # which torch.export.load expects
        raise UsageError(f"output={path}: format=torch requires the suffix .pt2; use output={path.with_suffix('.pt2')}")
    ensure_torchvision()
    network = ExportedNetwork([each.classifier for each in model.networks])
    program, facts = trace(network), describe(model)
    content = to_onnx(program, network, facts) if format == "onnx" else to_torch(program, facts)
    difference = compare(run_onnx(content) if format == "onnx" else run_torch(content), model, network)
    if not difference <= TOLERANCE:
        raise LungtlError(
            f"{format} computes something else: probability or weights of random scans differ by {difference:.1g}, "
            f"expected {TOLERANCE:g} at most; nothing was written: use lungtl predict"
        )
    with explain_write_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path, path.parent) as file:
        file.write(content)
    return difference


def compare(run: Run, model: Model, network: ExportedNetwork) -> float:
    """The largest difference of probability and weights on scans of several sizes; infinite if the file fails."""
    generator = np.random.default_rng(0)
    fields = [mm for each in network.each for mm in each.preprocessor.crop_mm]
    differences = []
    for number, slices in enumerate(SLICES):
        height, width = network.least_pixels + 40 * number + 3, network.least_pixels + 60
        voxels = generator.integers(-1200, 600, (slices, height, width)).astype(np.int16)
        # the largest field of view is a little smaller than the slice, then a little larger
        spacing = np.array([1.0, 0.9]) * (max(fields) / (height * (0.7 + 0.4 * number)) if fields else 1.0)
        expected = model.predict_voxels(voxels, None, (float(spacing[0]), float(spacing[1])))
        probability, weights = run(voxels, spacing.astype(np.float32))
        differences += [abs(probability - expected.probability), np.abs(weights - expected.slices["weight"]).max()]
    return float(np.max(differences))


def describe(model: Model) -> dict[str, str]:
    """What a file says about itself: texts, and JSON of several facts."""
    provenance, members = model.provenance, model.networks
    spacing = any(each.classifier.preprocessor.crop_mm for each in members)
    values = provenance["value_range"]
    content = "Hounsfield units, slices 1 mm apart from the feet to the head"
    if values is not None:
        content = f"grey values from {values[0]} to {values[1]}, slices as in the training data"
    if provenance["crop"] == "lungs":
        content += ", cropped to the lungs as lungtl does"
    if (bag := provenance.get("bag") or "scan") != "scan":
        content += f"; not a scan but a {bag}, cut out as for training"
    calibration = model.folder / CALIBRATION
    return {
        "name": str(provenance["name"]),
        "notice": RESEARCH_ONLY,
        "lungtl": VERSION,
        "voxels": f"int16 [slices, height, width]: {content}; windows, field of view and normalisation are inside",
        **({"pixel_spacing_mm": "float [2]: distance between rows, and between columns"} if spacing else {}),
        "probability": "float []: of malignancy, before calibration",
        "weights": "float [slices]: the share of each slice; the sum is 1",
        "models": json.dumps([each.config for each in members]),
        "weights_sha256": json.dumps([sha256(each.folder / WEIGHTS) for each in members]),
        "store_fingerprint": str(provenance["store_fingerprint"]),
        "calibration": calibration.read_text(encoding="utf-8") if calibration.is_file() else "null",
    }
