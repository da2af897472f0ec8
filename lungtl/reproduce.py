"""`python -m lungtl.reproduce run=RUN`: verify data and weights, retrain, compare the metrics."""

from __future__ import annotations

import json
import logging
import shlex
import subprocess
import sys
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from lungtl.runs.folder import METRICS, PRUNED, find_run, read_record
from lungtl.runs.resuming import config_dirs
from lungtl.settings import command_line
from lungtl.settings.composing import compose_config, recorded_folders
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import is_reproduced, override_key
from lungtl.settings.schema import ReproduceConfig, TrainConfig

if TYPE_CHECKING:
    from lungtl.data.store.reader import Store
    from lungtl.models.bag_classifier import BagClassifier

log = logging.getLogger(__name__)
REPRODUCTION = "reproduction.json"
MOST_DEVIATION = 1e-3
"""Of cached from recomputed features, relative to the largest; devices and half precision differ by less."""


def run(config: ReproduceConfig) -> None:
    """Verify, retrain, compare; prints the new run's folder."""
    earlier = find_run(config.run, config.data_dir)
    record = read_record(earlier)
    if (earlier / PRUNED).is_file():
        raise LungtlError(f"{earlier} has no metrics because a search pruned it; give a run that was not pruned")
    if not (earlier / METRICS).is_file():
        raise LungtlError(
            f"{earlier} has no {METRICS} because it did not finish; resume it: lungtl.train resume={earlier}"
        )
    data_dir, name = quoted(str(config.data_dir)), quoted(f"again: {record['name']}")
    overrides = [*reproduced_overrides(record["overrides"]), f"data_dir={data_dir}", f"name={name}"]
    command = [sys.executable, "-m", "lungtl.train", *config_dirs(earlier), *overrides]
    log.info("command: %s", shlex.join(["python", *command[1:]]))
    composed = compose_config("train", TrainConfig, overrides, recorded_folders(earlier))
    environment, uncommitted = compare_environments(earlier, current_environment(composed))
    store, classifier = check_same(record, composed)
    features = check_features(composed, store, classifier) if config.features == "anew" else None
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise LungtlError(f"the run failed this time (exit code {done.returncode}); see its own message above")
    folder = Path(done.stdout.strip())
    compared = compare_metrics(read_json(earlier / METRICS), read_json(folder / METRICS))
    differing = {name: pair for name, pair in compared.items() if not _equal(*pair, config.tolerance)}
    report = {
        "run": str(record["mlflow_run_id"] or earlier.name), "tolerance": config.tolerance, "metrics": len(compared),
        "differing": differing, "environment": environment, "uncommitted": uncommitted,
        "features": config.features, "features_deviation": features,
    }  # fmt: skip
    (folder / REPRODUCTION).write_text(json.dumps(report, indent=2))
    print(folder)
    if differing:
        name, (then, now) = next(iter(differing.items()))
        raise LungtlError(
            f"not reproduced: {len(differing)} of {len(compared)} metrics differ by more than {config.tolerance:g}, "
            f"the first is {name}: {then} then, {now} now; see {folder / REPRODUCTION} and the differences above"
        )
    log.info("reproduced: %d of %d metrics agree within %g", len(compared), len(compared), config.tolerance)


def reproduced_overrides(overrides: list[str]) -> list[str]:
    """The overrides of a run without those that say where and how it was started."""
    return [line for line in overrides if is_reproduced(override_key(line))]


def quoted(text: str) -> str:
    """A text as a value of Hydra's command line."""
    from hydra.core.override_parser.types import Quote, QuotedString

    return QuotedString(text, Quote.single).with_quotes()


def check_same(record: dict[str, Any], config: TrainConfig) -> tuple[Store, BagClassifier]:
    """Check data, split and starting weights before training.

    Returns:
        What the run starts with.

    Raises:
        LungtlError: one of them differs from the record.
    """
    from lungtl.data.splits import split_bags, split_fingerprint
    from lungtl.data.store.opening import open_store
    from lungtl.training.build import build_classifier
    from lungtl.training.fit import seed_everything

    store = open_store(config)
    _check("dataset", "prepare the same data again", record["store_fingerprint"], store.fingerprint)
    split = split_fingerprint(split_bags(store.bags, config.split))
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
    import torch

    from lungtl.settings import parts
    from lungtl.training.devices import pick_device
    from lungtl.training.feature_cache import run_features

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
    from lungtl.evaluation.document import flat_metrics

    first, second = flat_metrics(then), flat_metrics(now)
    return {name: (first.get(name), second.get(name)) for name in sorted(first.keys() | second.keys())}


def current_environment(config: TrainConfig) -> dict[str, Any]:
    """The environment in which a training command would run here."""
    from lungtl.runs.environment import environment
    from lungtl.training.devices import device_name, pick_device

    return environment(device_name(pick_device(config.trainer.accelerator)))


def compare_environments(earlier: Path, now: dict[str, Any]) -> tuple[list[tuple[str, str, str]], list[str]]:
    """Log what differs between a run's environment and the current one.

    Returns:
        (name, then, now) of each difference; and which of "then" and "now" had uncommitted changes, so that the code
        cannot be compared.
    """
    from lungtl.runs.environment import ENVIRONMENT, differences

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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object."""
    document: dict[str, Any] = json.loads(path.read_text())
    return document


def _check(name: str, remedy: str, then: str, now: str) -> None:
    if then != now:
        raise LungtlError(f"{name} has changed since the run (fingerprint {then}, now {now}); {remedy}")
    log.info("%s: unchanged (%s)", name, now[:12])


def _equal(then: float | None, now: float | None, tolerance: float) -> bool:
    if then is None or now is None:
        return then is now
    return abs(then - now) <= tolerance


if __name__ == "__main__":
    command_line.main("reproduce", ReproduceConfig, run)
