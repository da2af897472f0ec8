"""What `lungtl reproduce` verifies before and compares after retraining a run."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from lungtl.data.splits import split_bags, split_fingerprint
from lungtl.data.store.opening import open_store
from lungtl.data.store.reader import Store
from lungtl.evaluation.document import flat_metrics
from lungtl.models.bag_classifier import BagClassifier
from lungtl.runs.environment import ENVIRONMENT, differences, environment
from lungtl.runs.folder import read_json, read_record
from lungtl.runs.resuming import check_trusted, own_overrides, own_settings
from lungtl.settings import parts
from lungtl.settings.composing import compose_config
from lungtl.settings.errors import LungtlError
from lungtl.settings.schema import TrainConfig
from lungtl.settings.text import quoted
from lungtl.training.build import build_classifier
from lungtl.training.devices import device_name, pick_device
from lungtl.training.feature_cache import run_features
from lungtl.training.fit import seed_everything

log = logging.getLogger(__name__)
MOST_DEVIATION = 1e-3
"""Of cached from recomputed features, relative to the largest; devices and half precision differ by less."""


def repeated_config(folder: Path, data_dir: Path, trust: Collection[str] | None) -> TrainConfig:
    """The config that trains a run once more.

    Args:
        folder: of the run.
        data_dir: of the new run.
        trust: packages outside lungtl whose classes the run may name.

    Raises:
        LungtlError: its config.yaml names something else than settings of lungtl, or a class that is not trusted.
    """
    record = read_record(folder)
    place = {"data_dir": str(data_dir), "name": f"again: {record['name']}"}
    lines = [*own_settings(folder), *(f"{key}={quoted(value)}" for key, value in place.items())]
    config = compose_config("train", TrainConfig, lines)
    check_trusted(config, trust)
    own = own_overrides(folder, config)
    return config.composed_from(record["choices"], [*own, *(f"{key}={value}" for key, value in place.items())])


def check_parts(record: Mapping[str, Any], config: TrainConfig) -> None:
    """Warn of parts outside lungtl whose source code has changed since the run."""
    for group, then in record.get("parts", {}).items():
        now = parts.origin(getattr(config, group))
        if then["package"] != "lungtl" and then != now:
            log.warning("%s: the source code of %s has changed since the run", group, then["class"])


def check_same(record: dict[str, Any], config: TrainConfig) -> tuple[Store, BagClassifier]:
    """Check data, split and starting weights before training.

    Returns:
        What the run starts with.

    Raises:
        LungtlError: one of them differs from the record.
    """
    store = open_store(config)
    _check("dataset", "prepare the same data again", record["store_fingerprint"], store.fingerprint)
    split = split_fingerprint(split_bags(store.bags, config.split, config.trains_on_votes))
    _check("split", "check out the run's commit", record["split_fingerprint"], split)
    seed_everything(config.seed)
    classifier = build_classifier(config, store.value_range)
    weights = classifier.backbone.fingerprint()
    _check("backbone.weights", "use the file that the run started from", record["weights_fingerprint"], weights)
    return store, classifier


def check_features(config: TrainConfig, store: Store, classifier: BagClassifier) -> float | None:
    """Recompute the frozen features, and compare them with the cache that the run is about to read.

    Args:
        config: of the run.
        store: whose slices.
        classifier: as the run starts; it is cut where the run cuts it.

    Returns:
        The largest deviation, relative to the largest feature; None if the run reads no cache.

    Raises:
        LungtlError: it exceeds `MOST_DEVIATION`.
    """
    freezing, device = parts.build(config.freezing), pick_device(config.trainer.accelerator)
    weights = classifier.backbone.fingerprint()
    freezing.adapt(classifier.backbone)
    with TemporaryDirectory(dir=config.data_dir) as folder:
        elsewhere = config.model_copy(update={"data_dir": Path(folder)})
        cached, fresh = (run_features(one, classifier, freezing, store, device, weights) for one in (config, elsewhere))
        if cached is None or fresh is None:
            return None
        pairs = (
            (cached.rows(bag_id, view).float(), fresh.rows(bag_id, view).float())
            for bag_id, view in product(store.bags["bag_id"], range(config.cache.views))
        )
        largest = torch.stack([torch.stack([(a - b).abs().max(), b.abs().max()]) for a, b in pairs]).amax(0)
        del cached, fresh, pairs  # Windows removes no file that is mapped
    deviation = float(largest[0] / largest[1].clamp(min=1e-12))
    if not deviation <= MOST_DEVIATION:  # NaN too
        raise LungtlError(
            f"the feature cache of {store.name} deviates by {deviation:g} of the largest feature from recomputed "
            f"features, expected at most {MOST_DEVIATION:g}; remove {config.data_dir / 'cache'} and train again"
        )
    log.info("features: recomputed, the cache deviates by %g", deviation)
    return deviation


def compare_metrics(then: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[float | None, float | None]]:
    """Every metric of two metrics.json: name -> (then, now); None if undefined."""
    first, second = flat_metrics(then), flat_metrics(now)
    return {name: (first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())}


def current_environment(config: TrainConfig) -> dict[str, Any]:
    """The environment in which a training command would run here."""
    return environment(device_name(pick_device(config.trainer.accelerator)))


def compare_environments(earlier: Path, now: dict[str, Any]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Log what differs between a run's environment and the current one.

    Returns:
        (name, then, now) of each difference; and which of "then" and "now" had uncommitted changes, so that the code
        cannot be compared.
    """
    if not (earlier / ENVIRONMENT).is_file():
        log.warning("%s has no %s: the environments cannot be compared", earlier, ENVIRONMENT)
        return [], []
    then = read_json(earlier / ENVIRONMENT)
    found = differences(then, now)
    for name, was, is_now in found:
        log.warning("%s was %s, now it is %s", name, was, is_now)
    uncommitted = [when for when, one in (("then", then), ("now", now)) if one["changed"]]
    for when in uncommitted:
        log.warning("the code %s uncommitted changes %s, so it may differ at the same commit",
                    "had" if when == "then" else "has", when)  # fmt: skip
    if not found and not uncommitted:
        log.info("code, packages and device are the same (commit %s)", str(now["commit"])[:12])
    return found, uncommitted


def _check(name: str, remedy: str, then: str, now: str) -> None:
    if then != now:
        raise LungtlError(f"{name} has changed since the run (fingerprint {then}, now {now}); {remedy}")
    log.info("%s: unchanged (%s)", name, now[:12])
