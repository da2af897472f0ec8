"""What each config key means for a run's identity, for resuming it, for its name and for reproducing it.

`TABLE` is the only place that says so. A key takes the entry of its longest dotted prefix (`tracking.uri` that of
`tracking`), a key without one takes `DEFAULT`.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from omegaconf import Container, OmegaConf

Identity = Literal["setting", "repeat", "place", "none"]


class Meaning(NamedTuple):
    """What a key means.

    Attributes:
        identity: "setting": it decides what is computed; "repeat": likewise, but runs that differ in nothing else are
            repeats of one setting; "place": where the data is, which identifies a run only while the fingerprint of
            the data is unknown; "none": where and how a run is executed.
        may_change: whether a run can be resumed with another value.
        in_name: whether an override of it appears in the derived run name.
        reproduced: whether `lungtl.reproduce` and `resume=` take the value of the original run.
        set_by_crossval: whether `lungtl.crossval` sets it, so that its users cannot.
    """

    identity: Identity
    may_change: bool
    in_name: bool
    reproduced: bool
    set_by_crossval: bool = False


DEFAULT = Meaning("setting", may_change=False, in_name=True, reproduced=True)
# fmt: off
TABLE = {
    #                                 identity  resume name   reproduce
    # where and how a run is executed
    "data_dir":               Meaning("none",    True,  False, False),
    "workers":                Meaning("none",    True,  False, False),
    "name":                   Meaning("none",    True,  False, False),
    "verbose":                Meaning("none",    True,  False, False),
    "sweep":                  Meaning("none",    True,  False, False),
    "resume":                 Meaning("none",    True,  False, False, set_by_crossval=True),
    "hydra":                  Meaning("none",    True,  False, False),
    "hydra.sweep":            Meaning("none",    True,  False, False, set_by_crossval=True),
    "trust":                  Meaning("none",    True,  False, False),
    "tracking":               Meaning("none",    True,  False, True),
    "tracking.uri":           Meaning("none",    True,  False, False),  # a stranger's run may name any server
    "trainer.accelerator":    Meaning("none",    True,  False, True),
    "trainer.devices":        Meaning("none",    True,  False, True),
    "trainer.workers":        Meaning("none",    True,  False, True),
    "trainer.compile":        Meaning("none",    True,  False, True),
    "cache.max_gb":           Meaning("none",    True,  False, True),
    "bundle":                 Meaning("none",    True,  False, True),
    "evaluation.figures":     Meaning("none",    True,  False, True),
    "evaluation.heatmaps":    Meaning("none",    True,  False, True),
    # where the data is; its content is compared by fingerprint
    "dataset.root":           Meaning("place",   True,  False, True),
    "dataset.table":          Meaning("place",   True,  False, True),
    "dataset.images":         Meaning("place",   True,  False, True),
    # repeats of a setting; a dry run trains nothing and must not take a run's folder
    "seed":                   Meaning("repeat",  False, True,  True),
    "split.seed":             Meaning("repeat",  False, True,  True),
    "split.fold":             Meaning("repeat",  False, True,  True,  set_by_crossval=True),
    "dry_run":                Meaning("repeat",  True,  False, False),
    # settings that a resumed run can change: how long it trains, and what is done after training
    "split.kind":             Meaning("setting", False, True,  True,  set_by_crossval=True),
    "backbone.weights":       Meaning("setting", True,  True,  True),  # a moved file; its checksum is compared
    "trainer.max_epochs":     Meaning("setting", True,  True,  True),
    "trainer.patience":       Meaning("setting", True,  True,  True),
    "cache.enabled":          Meaning("setting", True,  True,  True),
    "evaluation":             Meaning("setting", True,  True,  True),
    "covariates":             Meaning("setting", True,  True,  True),
}
# fmt: on
DATASETS = "datasets.json"
"""In a sweep's folder: `dataset_hash` of each of its dataset sections -> fingerprint of the store it opens."""
LENGTH = 12  # hexadecimal digits
STAMP = "LUNGTL_STAMP"
"""Environment variable: when the command was started, which names its run; the jobs of a sweep inherit it."""


def meaning(key: str) -> Meaning:
    """The entry of a dotted key or of a config group."""
    parts = key.replace("/", ".").split(".")
    prefixes = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((TABLE[prefix] for prefix in prefixes if prefix in TABLE), DEFAULT)


def override_key(override: str) -> str:
    """The key of a Hydra override: `+head.width=3` -> `head.width`."""
    return override.partition("=")[0].lstrip("+~")


def config_key(
    config: dict[str, Any], fingerprints: Mapping[str, str | None] | None = None, *, repeats: bool = True
) -> str:
    """The hash of everything in a config that identifies a run; it names the run's folder in a sweep.

    Args:
        config: composed, with its interpolations as written: `${data_dir}/x` is the same in every data folder.
        fingerprints: of `read_fingerprints`; a dataset that is listed is identified by its store's fingerprint
            instead of its paths, so that it can be moved.
        repeats: False: leave out seeds and folds, so that all repeats of a setting have one key.
    """
    kinds = {"setting", "place", *(["repeat"] if repeats else [])}
    fingerprint = (fingerprints or {}).get(dataset_hash(config.get("dataset")))
    if fingerprint is not None:
        kinds.remove("place")
    identity = _of_kinds(kinds, config)
    if fingerprint is not None:
        identity["dataset"] = {**identity["dataset"], "fingerprint": fingerprint}
    return _hash(identity)


def dataset_hash(dataset: Any) -> str:
    """The hash of a dataset section, with its interpolations as written."""
    return _hash(dataset)


def container_key(config: Container) -> str:
    """`config_key` of a config as Hydra has it, with the fingerprints that its sweep has written."""
    plain = OmegaConf.to_container(config, resolve=False)
    assert isinstance(plain, dict)
    folder = OmegaConf.select(config, "hydra.sweep.dir")
    fingerprints = {} if folder is None else read_fingerprints(Path(folder))
    return config_key({str(key): value for key, value in plain.items()}, fingerprints)


def read_fingerprints(sweep: Path) -> dict[str, str | None]:
    """The `DATASETS` of a sweep's folder; empty where there is none, or a power failure damaged it."""
    path = sweep / DATASETS
    try:
        return dict(json.loads(path.read_bytes())) if path.is_file() else {}
    except ValueError:  # it is written again before the runs start
        return {}


def sweep_name(name: str | None) -> str:
    """`sweep.name`, or when the command was started."""
    return str(name) if name is not None else os.environ[STAMP]


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys."""
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}{key}.") if isinstance(child, dict) else {f"{prefix}{key}": child}
    return flat


def _of_kinds(kinds: set[str], config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """The part of a nested config whose keys have one of these identities."""
    kept: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value:
            if inside := _of_kinds(kinds, value, f"{name}."):
                kept[key] = inside
        elif meaning(name).identity in kinds:
            kept[key] = value
    return kept


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:LENGTH]


# for conf/train.yaml; importing this module is enough, which unpickling Hydra's callback does in a worker
OmegaConf.register_new_resolver("config_key", lambda *, _root_: container_key(_root_), replace=True)
OmegaConf.register_new_resolver("sweep_name", sweep_name, replace=True)
