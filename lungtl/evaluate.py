"""`python -m lungtl.evaluate model=RUN dataset=...`: score a trained model on any prepared dataset.

Calibration and thresholds were chosen on the model's validation split; nothing is fitted to the dataset.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lungtl.runs.folder import SPLIT, find_model, read_record
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import EvaluateConfig

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.data.bags import Features
    from lungtl.data.store.reader import Store
    from lungtl.evaluation.controls import Controls
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.runs.model import Model
    from lungtl.tracking.tracker import Tracker
    from lungtl.training.untrained import Untrained

log = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> None:
    """Predict, score, write, and print the folder."""
    from hydra.core.hydra_config import HydraConfig

    from lungtl.data.store.opening import open_store
    from lungtl.evaluation.chosen import FILE
    from lungtl.runs.model import Model
    from lungtl.runs.scored_model import ScoredModel
    from lungtl.runs.scoring import write_results
    from lungtl.runs.summary import print_summary
    from lungtl.tracking import publish
    from lungtl.tracking.tracker import tracked

    folder = Path(HydraConfig.get().runtime.output_dir)
    reference = find_model(config.model, config.data_dir)
    store = open_store(config)
    bags, trained_with, split, left_out = choose_bags(reference, store, config.split)
    training, validation = (shared_patients(bags, trained_with, side) for side in ("train", "val"))
    model = Model.open(reference, config.accelerator, config.trust or ())
    check_values(store, model.provenance)
    if trained_with is None and model.provenance["store_fingerprint"] == store.fingerprint:
        log.warning("the model was trained on this dataset, so scores are too good; give its run, not its bundle")
    if model.chosen is None:
        log.warning("the model has no %s: no calibration and no operating points", FILE)
    scored = ScoredModel(
        model.classifier, model.config["aggregator"],
        _features(config, model, model.classifier, model.classifier.backbone.fingerprint(), store), model.device,
        model.chosen, _controls(trained_with, model.config),
        _untrained(config, model, store) if config.untrained else None, model.config["slices_trained"], config.heatmaps,
    )  # fmt: skip
    name = model.provenance["mlflow_run_id"] or reference.name
    with tracked(_tracker(config, f"{model.provenance['name']} on {store.name}", folder)) as tracker:
        document = write_results(
            folder, store, scored, bags, split, chose=validation == bags["patient_id"].nunique(),
            threshold=config.threshold, resamples=config.resamples,
            model=name, store_name=store.name, store_fingerprint=store.fingerprint,
            trained_on=model.provenance["store"], training_patients=training, validation_patients=validation,
            patients_left_out=left_out,
        )  # fmt: skip
        publish.evaluation(tracker, folder)
    print_summary(document, folder, ["figures/, metrics.json, predictions.csv and slices.csv are in that folder"])
    print(folder)


class ScoredBags(NamedTuple):
    """The bags that are scored.

    Attributes:
        bags: bag_id, patient_id, label, diameter_mm, split.
        trained_with: the model's own split, with the same columns; None for a bundle without its run.
        split: the name under which the scores stand.
        left_out: patients that split=auto omitted because they trained the model or chose its epoch.
    """

    bags: pd.DataFrame
    trained_with: pd.DataFrame | None
    split: str
    left_out: int


def choose_bags(model: Path, store: Store, wanted: str) -> ScoredBags:
    """Choose the bags to score.

    Args:
        model: a run's or a bundle's folder.
        store: the prepared dataset.
        wanted: all, train, val, test, or auto: test for the store that the run was trained on; for others all, without
            patients who trained the model or chose its epoch (unknown for a bundle without its run).

    Raises:
        LungtlError: there is no labelled bag, or this store does not have the split.
        UsageError: auto leaves no patient.
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
        left = f"; {len(seen)} patients who trained the model or chose its epoch are omitted" if seen else ""
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
        raise LungtlError(f"{store.name} has no labelled scan, nodule or patient to score; give the dataset labels")
    bags = bags[~bags["patient_id"].isin(seen)]
    if bags.empty:
        raise UsageError(
            f"split=auto: all {len(seen)} patients of {store.name} trained the model or chose its epoch; choose "
            "another dataset, or split=all to score them anyway"
        )
    if trained := shared_patients(bags, split, "train"):
        log.warning("%d of the scored patients trained the model, so scores are too good", trained)
    if chose := shared_patients(bags, split, "val"):
        log.warning("%d of the scored patients chose the epoch and thresholds, so scores are too good", chose)
    return ScoredBags(bags.reset_index(drop=True), split, wanted, len(seen))


def shared_patients(bags: pd.DataFrame, split: pd.DataFrame | None, side: str) -> int | None:
    """How many patients of the bags are in a part of the model's split; None if that is unknown."""
    if split is None:
        return None
    return len(set(bags["patient_id"]) & set(split.loc[split["split"] == side, "patient_id"]))


def check_values(store: Store, provenance: dict[str, object]) -> None:
    """Raise LungtlError if model and store differ in HU or grey values; warn if their crops differ."""
    expected, seen = provenance["value_range"], store.manifest["value_range"]
    if expected != seen:
        names = ["HU" if v is None else f"grey values {v}" for v in (expected, seen)]
        raise LungtlError(f"the model was trained on {names[0]}, {store.name} holds {names[1]}; choose another dataset")
    crop = store.manifest["recipe"].get("crop", "none")
    if provenance["crop"] != crop:
        log.warning("the model was trained with dataset.crop=%s, %s has %s", provenance["crop"], store.name, crop)


def _controls(trained_with: pd.DataFrame | None, bundle: dict[str, Any]) -> Controls | None:
    """Fitted on the model's training split if it is known, otherwise read from its bundle, if that has any."""
    from lungtl.evaluation.controls import Controls, fit_controls

    if trained_with is not None:
        return fit_controls(trained_with[trained_with["split"] == "train"])
    kept = bundle.get("controls")
    return None if kept is None else Controls.from_dict(kept)


def _features(
    config: EvaluateConfig, model: Model, classifier: BagClassifier, weights: str, store: Store
) -> Features | None:
    """The backbone's features of the store, in the precision that training used."""
    from lungtl.training.feature_cache import cached_features

    if not config.cache.enabled:
        return None
    precision = model.provenance.get("cache_precision", "float32")  # bundles of version 0.1.0 do not say
    return cached_features(
        classifier, store, config.data_dir, model.device, weights, precision=precision, max_gb=config.cache.max_gb
    )


def _untrained(config: EvaluateConfig, model: Model, store: Store) -> Untrained | None:
    """The bundle's untrained control; None, with the reason logged, if it has none."""
    from lungtl.bundle import load_untrained
    from lungtl.training.untrained import Untrained

    found = load_untrained(model.folder, model.config, config.trust or ())
    if found is None:
        return None
    classifier, weights = found
    return Untrained(classifier, _features(config, model, classifier, weights, store), weights)


def _tracker(config: EvaluateConfig, name: str, folder: Path) -> Tracker:
    from lungtl.tracking import publish
    from lungtl.tracking.tracker import MlflowTracker, NoTracker

    if not config.tracking.enabled:
        return NoTracker()
    return MlflowTracker(config.tracking, config.data_dir, name, folder, publish.evaluation)


if __name__ == "__main__":
    command_line.main("evaluate", EvaluateConfig, run)
