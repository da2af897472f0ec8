"""`python -m tests.models.backbones.hub_client NAME`: the fingerprint and origin of a model's weights from the hub.

Prints why where they cannot be had. The hub's client reads its settings from the environment when it is imported.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time

from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.backbones.weights import load_model
from lungtl.settings.errors import LungtlError

if __name__ == "__main__":
    time.sleep = lambda _: None  # the hub's client waits before it tries again
    try:
        print(TimmBackbone(sys.argv[1], weights="hub").fingerprint())
        print(json.dumps(dataclasses.asdict(load_model(sys.argv[1], "hub")[1])))
    except LungtlError as error:
        print(error)
