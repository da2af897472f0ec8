"""A child's folder is named by what it computes, so that the same child is found again in another call of the sweep.

Not by its number: the grid may have grown.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from omegaconf import Container, OmegaConf

ELSEWHERE = (
    "data_dir", "name", "resume", "sweep", "tracking", "workers", "cache.max_gb", "evaluation.figures",
    "trainer.accelerator", "trainer.devices", "trainer.workers",
)  # fmt: skip
"""Settings that say where and how a run is done, not what it computes; a section stands for all of its keys."""
DATASETS = "datasets.json"
"""In a sweep's folder: hash of each dataset section -> fingerprint of its store."""
DATASET_PATHS = ("root", "table", "images")
LENGTH = 12  # hexadecimal digits


def config_key(config: dict[str, Any], sweep: Path | None = None) -> str:
    """The hash of a composed config, less Hydra's own section and what `ELSEWHERE` names.

    Args:
        config: with its interpolations as written: `${data_dir}/x` is the same in every data folder.
        sweep: folder whose datasets.json replaces the dataset's paths by the fingerprint of its store.
    """
    kept = _without("hydra", config)
    for name in ELSEWHERE:
        kept = _without(name, kept)
    fingerprint = dataset_fingerprints(sweep).get(dataset_hash(config)) if sweep is not None else None
    if fingerprint is not None:
        dataset = {key: value for key, value in kept["dataset"].items() if key not in DATASET_PATHS}
        kept = {**kept, "dataset": {**dataset, "fingerprint": fingerprint}}
    return _hash(kept)


def dataset_hash(config: dict[str, Any]) -> str:
    """The hash of a config's dataset section, by which datasets.json knows it."""
    return _hash(config.get("dataset"))


def dataset_fingerprints(sweep: Path) -> dict[str, str | None]:
    """Hash of a dataset section -> fingerprint of its store, None if that could not be prepared; from datasets.json."""
    path = sweep / DATASETS
    return dict(json.loads(path.read_text())) if path.is_file() else {}


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:LENGTH]


def _without(name: str, config: dict[str, Any]) -> dict[str, Any]:
    section, _, rest = name.partition(".")
    if section not in config:
        return config
    if rest:
        return {**config, section: _without(rest, config[section])}
    return {key: value for key, value in config.items() if key != section}


def container_key(config: Container) -> str:
    """`config_key` of a config as Hydra has it."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    folder = OmegaConf.select(config, "hydra.sweep.dir")
    return config_key({str(key): value for key, value in plain.items()}, None if folder is None else Path(folder))


def sweep_name(name: str | None) -> str:
    """`sweep.name`, or when the command was started."""
    from lungtl.settings.command_line import STAMP

    return str(name) if name is not None else os.environ[STAMP]


# for conf/train.yaml; importing this module is enough, which unpickling Hydra's callback does in a worker
OmegaConf.register_new_resolver("config_key", lambda *, _root_: container_key(_root_), replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
