"""Trace a network with open numbers of slices, rows and columns, and store it as ONNX or as a torch.export program."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from lungtl.export.network import ExportedNetwork
from lungtl.models.aggregators.gru import Gru
from lungtl.models.aggregators.transmil import TransMil
from lungtl.settings.errors import LungtlError, first_line

Format = Literal["onnx", "torch"]
Run = Callable[[NDArray[np.int16], NDArray[np.float32]], tuple[float, NDArray[np.float32]]]
"""int16 [S, H, W] and the (row, column) spacing in mm, which may be unused -> probability, and weights [S]."""
VOXELS, SPACING, PROBABILITY, WEIGHTS = "voxels", "pixel_spacing_mm", "probability", "weights"
FACTS = "lungtl.json"
"""In a torch.export file, what ONNX has as metadata."""
UNEXPORTABLE = {
    Gru: "its recurrence takes as many steps as a scan has slices",
    TransMil: "it arranges the slices in a square whose side depends on their number",
}


def trace(network: ExportedNetwork) -> Any:
    """The network as a `torch.export.ExportedProgram`; raises LungtlError if that is impossible."""
    for classifier in network.each:
        if reason := UNEXPORTABLE.get(type(classifier.aggregator)):
            name = type(classifier.aggregator).__name__.lower()
            raise LungtlError(f"aggregator={name} cannot be exported: {reason}; use lungtl predict, or train another")
    pixels = network.least_pixels
    example = (torch.zeros(6, pixels + 11, pixels + 7, dtype=torch.int16), *([torch.ones(2)] * network.takes_spacing))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.export(network, example, dynamic_shapes=_open_sizes(network), strict=False)
    except (RuntimeError, TypeError, ValueError) as error:
        raise _impossible(network, error) from error
    program.example_inputs = None  # torch would store them as a pickle
    return program


def to_onnx(program: Any, network: ExportedNetwork, facts: Mapping[str, str]) -> bytes:
    """The program as an ONNX file; raises LungtlError if an operation has no ONNX equivalent."""
    try:
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ImportError as error:
        raise _no_onnx() from error
    logging.getLogger("onnx_ir").setLevel(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            converted = torch.onnx.export(
                program, dynamo=True, verbose=False, dynamic_shapes=_open_sizes(network), optimize=True,
                input_names=[VOXELS, SPACING][: 1 + network.takes_spacing], output_names=[PROBABILITY, WEIGHTS],
            )  # fmt: skip
    except (RuntimeError, TypeError, ValueError) as error:
        raise _impossible(network, error) from error
    assert converted is not None
    converted.model.metadata_props.update(facts)
    content: bytes = converted.model_proto.SerializeToString()
    return content


def to_torch(program: Any, facts: Mapping[str, str]) -> bytes:
    """The program as a file for `torch.export.load`, which contains no pickle."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of weights in channels-last order, off the CPU
        torch.export.save(program, buffer, extra_files={FACTS: json.dumps(dict(facts), indent=2)})
    return buffer.getvalue()


def run_onnx(content: bytes) -> Run:
    """Run an ONNX file with onnxruntime."""
    try:
        import onnxruntime
    except ImportError as error:
        raise _no_onnx() from error
    runtime: Any = onnxruntime
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = {each.name for each in session.get_inputs()}

    def run(voxels: NDArray[np.int16], spacing_mm: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        inputs = {VOXELS: voxels, SPACING: spacing_mm}
        probability, weights = session.run(None, {name: inputs[name] for name in names})
        return float(probability), weights

    return run


def run_torch(content: bytes) -> Run:
    """Run a torch.export file."""
    module = torch.export.load(io.BytesIO(content)).module()
    arguments = len(list(module.graph.find_nodes(op="placeholder")))

    def run(voxels: NDArray[np.int16], spacing_mm: NDArray[np.float32]) -> tuple[float, NDArray[np.float32]]:
        inputs = [torch.from_numpy(voxels), torch.from_numpy(spacing_mm)][:arguments]
        with torch.no_grad():
            probability, weights = module(*inputs)
        return float(probability), weights.numpy()

    return run


def _open_sizes(network: ExportedNetwork) -> tuple[dict[int, Any], ...]:
    slices, (height, width) = (
        torch.export.Dim("slices", min=1),
        (torch.export.Dim(name, min=network.least_pixels) for name in ("height", "width")),
    )
    return {0: slices, 1: height, 2: width}, *([{}] * network.takes_spacing)


def _impossible(network: ExportedNetwork, error: Exception) -> LungtlError:
    parts = {f"{type(each.backbone).__name__} {each.backbone.name}, {type(each.aggregator).__name__}"
             for each in network.each}  # fmt: skip
    logging.getLogger(__name__).debug("%s", error)
    return LungtlError(f"{'; '.join(sorted(parts))} cannot be exported ({first_line(error)}); use lungtl predict")


def _no_onnx() -> LungtlError:
    return LungtlError("format=onnx needs onnx, onnxscript and onnxruntime; pip install 'lungtl[onnx]'")
