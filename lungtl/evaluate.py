"""`python -m lungtl.evaluate model=RUN dataset=...`: score a trained model on any prepared dataset.

Calibration and thresholds are those that the model's validation bags chose; nothing is fitted to the dataset.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lungtl.data.store.opening import open_store
from lungtl.runs.folder import BUNDLE, SPLIT, find_model, read_record
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import EvaluateConfig

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lungtl.data.bags import Features
    from lungtl.data.store.reader import Store
    from lungtl.evaluation.controls import Controls
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.tracking.tracker import Tracker
    from lungtl.training.untrained import Untrained

log = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> None:
    """Predict, score, write, and print the folder."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    model = find_model(config.model, config.data_dir)
    store = open_store(config)
    bags, trained_with, split, left_out = choose_bags(model, store, config.split)
    training, validation = (shared_patients(bags, trained_with, side) for side in ("train", "val"))

    from lungtl.bundle import load_bundle
    from lungtl.evaluation.chosen import FILE, read_chosen
    from lungtl.runs.scored import ScoredModel
    from lungtl.runs.summary import print_summary
    from lungtl.runs.write import write_results
    from lungtl.tracking import publish
    from lungtl.tracking.tracker import tracked
    from lungtl.training.devices import pick_device

    where = model / BUNDLE if (model / BUNDLE).is_dir() else model
    classifier, bundle = load_bundle(where)
    provenance = bundle["provenance"]
    check_values(store, provenance)
    if trained_with is None and provenance["store_fingerprint"] == store.fingerprint:
        log.warning("the model was trained on bags of this dataset: scores are too good; give its run, not its bundle")
    chosen = read_chosen(where)
    if chosen is None:
        log.warning("the model has no %s: no calibration and no operating points", FILE)
    device = pick_device(config.accelerator)
    features = _features(config, classifier, classifier.backbone.fingerprint(), bundle, store, device)
    untrained = _untrained(config, where, bundle, store, device) if config.untrained else None
    controls = _controls(trained_with, bundle)
    scored = ScoredModel(classifier, bundle["aggregator"], features, device, chosen, controls, untrained,
                         bundle["slices_trained"], config.heatmaps)  # fmt: skip
    reference = provenance["mlflow_run_id"] or model.name
    with tracked(_tracker(config, f"{provenance['name']} on {store.name}", folder)) as tracker:
        document = write_results(
            folder, store, scored, bags, split, chose=validation == bags["patient_id"].nunique(),
            threshold=config.threshold, resamples=config.resamples,
            model=reference, store_name=store.name, store_fingerprint=store.fingerprint, trained_on=provenance["store"],
            training_patients=training, validation_patients=validation, patients_left_out=left_out,
        )  # fmt: skip
        publish.evaluation(tracker, folder)
    print_summary(document, folder, ["figures/, metrics.json, predictions.csv and slices.csv lie in that folder"])
    print(folder)


class ScoredBags(NamedTuple):
    """Which bags are scored.

    Attributes:
        bags: bag_id, patient_id, label, diameter_mm, split.
        trained_with: likewise, the split that the model was trained with; None for a bundle without its run.
        split: the name under which the scores stand.
        left_out: patients that split=auto left out because they trained the model or chose its epoch.
    """

    bags: pd.DataFrame
    trained_with: pd.DataFrame | None
    split: str
    left_out: int


def choose_bags(model: Path, store: Store, wanted: str) -> ScoredBags:
    """Which bags are scored.

    Args:
        model: a run's or a bundle's folder.
        store: the prepared dataset.
        wanted: all, train, val, test, or auto: test for the store that the run was trained on; for others all, but for
            patients who trained the model or chose its epoch (of a bundle without its run nobody knows them).

    Raises:
        LungtlError: there is no labelled bag, or a split is asked for that this store does not have.
        UsageError: auto leaves nobody.
    """
    from lungtl.data.splits import read_split
    from lungtl.sources.base import UNKNOWN

    labelled = store.bags[store.bags["bag_label"] != UNKNOWN]
    bags = labelled[["bag_id", "patient_id", "diameter_mm"]].assign(label=labelled["bag_label"].astype(int))
    split = read_split(model / SPLIT) if (model / SPLIT).is_file() else None
    same_store = split is not None and read_record(model)["store_fingerprint"] == store.fingerprint
    seen: set[str] = set()
    if wanted == "auto":
        wanted = "test" if same_store else "all"
        if split is not None and not same_store:
            seen = set(split.loc[split["split"] != "test", "patient_id"]) & set(bags["patient_id"])
        left = f"; {len(seen)} patients who trained the model or chose its epoch are left out" if seen else ""
        log.info("split=%s: the model was %strained on this dataset%s", wanted, "" if same_store else "not ", left)
    if same_store and split is not None:
        bags = bags.merge(split[["bag_id", "split"]], on="bag_id")
    else:
        bags = bags.assign(split=labelled["split"])
    if wanted != "all":
        given = sorted(bags["split"].dropna().unique())
        if wanted not in given:
            raise UsageError(f"split={wanted}: {store.name} has {given or 'no splits'} for this model; use split=all")
        bags = bags[bags["split"] == wanted]
    if bags.empty:
        raise LungtlError(f"{store.name} has no labelled bag to score; give the dataset labels")
    bags = bags[~bags["patient_id"].isin(seen)]
    if bags.empty:
        raise UsageError(
            f"split=auto: all {len(seen)} patients of {store.name} trained the model or chose its epoch; give another "
            "dataset, or split=all to score them all the same"
        )
    if trained := shared_patients(bags, split, "train"):
        log.warning("%d of the patients scored here trained the model: those scores are too good", trained)
    if chose := shared_patients(bags, split, "val"):
        log.warning("%d of the patients scored here chose the epoch, calibration and thresholds: too good", chose)
    return ScoredBags(bags.reset_index(drop=True), split, wanted, len(seen))


def shared_patients(bags: pd.DataFrame, split: pd.DataFrame | None, side: str) -> int | None:
    """How many patients of the bags stand on a side of the model's split; None where that is not known."""
    if split is None:
        return None
    return len(set(bags["patient_id"]) & set(split.loc[split["split"] == side, "patient_id"]))


def check_values(store: Store, provenance: dict[str, object]) -> None:
    """A model of HU cannot score grey values, nor the reverse; raises LungtlError. Another crop is only a warning."""
    expected, seen = provenance["value_range"], store.manifest["value_range"]
    if expected != seen:
        names = ["HU" if v is None else f"grey values {v}" for v in (expected, seen)]
        raise LungtlError(f"the model was trained on {names[0]}, {store.name} holds {names[1]}; choose another dataset")
    crop = store.manifest["recipe"].get("crop", "none")
    if provenance["crop"] != crop:
        log.warning("the model was trained with dataset.crop=%s, %s has %s", provenance["crop"], store.name, crop)


def _controls(trained_with: pd.DataFrame | None, bundle: dict[str, Any]) -> Controls | None:
    """Of the model's training bags where they are known, else those that its bundle keeps; older ones keep none."""
    from lungtl.evaluation.controls import Controls, fit_controls

    if trained_with is not None:
        return fit_controls(trained_with[trained_with["split"] == "train"])
    kept = bundle.get("controls")
    return None if kept is None else Controls.from_dict(kept)


def _features(
    config: EvaluateConfig,
    classifier: BagClassifier,
    weights: str,
    bundle: dict[str, Any],
    store: Store,
    device: torch.device,
) -> Features | None:
    """What the backbone with these weights computes of the store, in the precision that training kept."""
    from lungtl.training.feature_cache import cached_features

    if not config.cache.enabled:
        return None
    precision = bundle["provenance"].get("cache_precision", "float32")  # bundles of version 0.1.0 do not say
    return cached_features(
        classifier, store, config.data_dir, device, weights, precision=precision, max_gb=config.cache.max_gb
    )


def _untrained(
    config: EvaluateConfig, folder: Path, bundle: dict[str, Any], store: Store, device: torch.device
) -> Untrained | None:
    """The bundle's untrained control; None, and the reason in the log, where it has none."""
    from lungtl.bundle import load_untrained
    from lungtl.training.untrained import Untrained

    found = load_untrained(folder, bundle)
    if found is None:
        return None
    classifier, weights = found
    return Untrained(classifier, _features(config, classifier, weights, bundle, store, device), weights)


def _tracker(config: EvaluateConfig, name: str, folder: Path) -> Tracker:
    from lungtl.tracking import publish
    from lungtl.tracking.tracker import MlflowTracker, NoTracker

    if not config.tracking.enabled:
        return NoTracker()
    return MlflowTracker(config.tracking, config.data_dir, name, folder, publish.evaluation)


if __name__ == "__main__":
    command_line.main("evaluate", EvaluateConfig, run)
