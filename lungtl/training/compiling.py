"""torch.compile of a backbone during training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lungtl.settings.errors import LungtlError

RECOMPILATIONS = 256
"""Each unfrozen block causes two; at torch's own limit of 8 it would silently stop compiling."""


@contextmanager
def compiled(backbone: nn.Module) -> Iterator[None]:
    """Compile a backbone's forward pass temporarily, for any number of slices; parameters keep their names.

    Raises:
        LungtlError: it cannot be compiled on this machine.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch before 2.6
    backbone.forward = torch.compile(backbone.forward, dynamic=True)
    try:
        with config.patch({limit: RECOMPILATIONS}):
            yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())  # without torch's debugging hints
        raise LungtlError(
            f"trainer.compile=true: torch.compile failed ({reason}); it requires a C++ compiler, and Triton on GPUs; "
            "use trainer.compile=false"
        ) from error
    finally:
        del backbone.forward
        torch.compiler.reset()  # recompilations of a sweep's next run count from 0
