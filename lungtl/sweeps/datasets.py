"""The data behind each dataset config of a sweep: `datasets.json` in the sweep's folder.

It holds the hash of each dataset section and the fingerprint of its store. `lungtl.settings.keys` puts the fingerprint
in place of the paths, so that a moved dataset makes no run new and changed data at the same path does.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from filelock import FileLock
from omegaconf import DictConfig, OmegaConf

from lungtl.data.store.files import whole_file
from lungtl.settings.checks import validate
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import DATASETS, dataset_hash, read_fingerprints
from lungtl.settings.schema import TrainConfig

log = logging.getLogger(__name__)
LOCK = "datasets.json.lock"


def record_datasets(sweep: Path, configs: Iterable[DictConfig]) -> None:
    """Open the store of each distinct dataset, preparing it if needed, and write its fingerprint to datasets.json.

    A dataset that cannot be prepared is recorded as null, for good: the reason is logged, its runs fail on their own,
    and their keys contain its paths, so that `sweep.retry=true` finds them once the cause is fixed.

    Args:
        sweep: folder of the sweep.
        configs: composed configs of runs; Hydra's section is ignored.
    """
    distinct = {dataset_hash(OmegaConf.to_container(config.dataset, resolve=False)): config for config in configs}
    unprepared = {key for key, fingerprint in read_fingerprints(sweep).items() if fingerprint is None}
    found = {key: _fingerprint(config) for key, config in distinct.items() if key not in unprepared}
    known = {key: fingerprint for key, fingerprint in found.items() if fingerprint is not None}
    with FileLock(sweep / LOCK), whole_file(sweep / DATASETS, sweep) as file:
        file.write(json.dumps({**found, **read_fingerprints(sweep), **known}, indent=2).encode())


def _fingerprint(config: DictConfig) -> str | None:
    from lungtl.data.store.opening import open_store  # pandas

    try:
        plain = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return open_store(validate(TrainConfig, plain)).fingerprint
    except LungtlError as error:
        log.error("cannot prepare the dataset, so its runs will fail: %s", error)
    except Exception:
        log.exception("cannot prepare the dataset, so its runs will fail")
    return None
