"""torch.compile for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lungtl.settings.errors import LungtlError

RECOMPILATIONS = 256
"""After 8, torch's own limit, it would silently compile no more: each block that thaws makes two."""


@contextmanager
def compiled(backbone: nn.Module) -> Iterator[None]:
    """Let a backbone run compiled; afterwards it is as it was, as are its parameters' names all the time.

    Args:
        backbone: its forward pass is compiled for any number of slices, anew when other parameters train.

    Raises:
        LungtlError: it cannot be compiled here.
    """
    from torch._dynamo import config
    from torch._dynamo.exc import TorchDynamoException

    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # torch before 2.6
    backbone.forward = torch.compile(backbone.forward, dynamic=True)
    try:
        with config.patch({limit: RECOMPILATIONS}):
            yield
    except TorchDynamoException as error:
        reason = " ".join(str(error).strip().partition("\n\n")[0].split())  # behind it torch names its debug switches
        raise LungtlError(
            f"trainer.compile=true: torch.compile fails here ({reason}); it needs a C++ compiler, on GPUs Triton too; "
            "give trainer.compile=false"
        ) from error
    finally:
        del backbone.forward
        torch.compiler.reset()  # a sweep's next run counts from 0
