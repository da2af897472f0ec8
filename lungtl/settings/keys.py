"""A child's folder is named by what it computes, so that the same child is found again in another call of the sweep.

Not by its number: the grid may have grown.
"""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

from omegaconf import Container, OmegaConf

ELSEWHERE = (
    "data_dir", "name", "resume", "sweep", "tracking", "workers", "cache.max_gb", "evaluation.figures",
    "trainer.accelerator", "trainer.devices", "trainer.workers",
)  # fmt: skip
"""Settings that say where and how a run is done, not what it computes; a section stands for all of its keys."""
LENGTH = 12  # hexadecimal digits


def config_key(config: dict[str, Any]) -> str:
    """The hash of a composed config, less Hydra's own section and what `ELSEWHERE` names.

    Args:
        config: with its interpolations as written: `${data_dir}/x` is the same in every data folder.
    """
    kept = _without("hydra", config)
    for name in ELSEWHERE:
        kept = _without(name, kept)
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:LENGTH]


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
    return config_key({str(key): value for key, value in plain.items()})


def sweep_name(name: str | None) -> str:
    """`sweep.name`, or when the command was started."""
    from lungtl.settings.command_line import STAMP

    return str(name) if name is not None else os.environ[STAMP]


# for conf/train.yaml; importing this module is enough, which unpickling Hydra's callback does in a worker
OmegaConf.register_new_resolver("config_key", lambda *, _root_: container_key(_root_), replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)

FIXED = ("backbone", "freezing", "aggregator", "loss", "image", "head", "split", "optimizer", "seed",
         "trainer.accumulate", "trainer.batch_size", "trainer.bucket", "trainer.clip_norm", "trainer.ema",
         "trainer.limit_batches", "trainer.monitor", "trainer.precision", "trainer.sampler")  # fmt: skip


def may_change_on_resume(key: str) -> bool:
    """True for settings that a resumed run may be given anew."""
    return key == "backbone.weights" or not any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED)


def is_reproduced(key: str) -> bool:
    """True for settings that reproducing a run takes over."""
    return key not in ("data_dir", "name", "resume", "sweep.name", "sweep.retry", "workers")
