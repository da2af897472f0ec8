"""Make torchvision importable beside a CPU-only torch.

PyPI's torchvision links CUDA. Next to a torch without it, its C++ operators are missing and `import torchvision`
stops at "operator torchvision::nms does not exist", and with it timm, Lightning and torchmetrics. Declaring the
two operators that torchvision registers fake kernels for is all that its pure Python parts need.
"""

from __future__ import annotations

import importlib
import sys
from typing import Any

_SCHEMA = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_kept: list[Any] = []  # a torch Library's definitions vanish with it


def ensure_torchvision() -> None:
    """Import torchvision; where only its compiled operators are missing, declare them and import again."""
    if "torchvision" in sys.modules:
        return
    import torch

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
        _kept.append(library)
        importlib.import_module("torchvision")
