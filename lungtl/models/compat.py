"""Make torchvision importable with a CPU-only torch.

PyPI's torchvision links CUDA. With a CPU-only torch its C++ operators are missing and `import torchvision` fails with
"operator torchvision::nms does not exist"; timm, Lightning and torchmetrics fail with it. Declaring the two operators
for which torchvision registers fake kernels is all that its pure Python parts need.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

import torch

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_libraries: list[Any] = []  # a torch Library's definitions are removed when it is garbage-collected


def ensure_torchvision() -> None:
    """Import torchvision; if only its compiled operators are missing, declare them and import again."""
    if "torchvision" in sys.modules:
        return
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms does not exist" not in str(error) or torch.version.cuda or torch.version.hip:
            raise
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(operator + _SCHEMA)
        _libraries.append(library)
        importlib.import_module("torchvision")
