"""`python -m lungtl.evaluate model=RUN dataset=...`: score a trained model on any prepared dataset."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl import cli
from lungtl.config import EvaluateConfig
from lungtl.errors import LungtlError, UsageError
from lungtl.prepare import open_store
from lungtl.runs import BUNDLE, SPLIT, find_model, read_record

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.store.reader import Store

log = logging.getLogger(__name__)


def run(config: EvaluateConfig) -> None:
    """Predict, score, write, and print the folder."""
    from hydra.core.hydra_config import HydraConfig

    folder = Path(HydraConfig.get().runtime.output_dir)
    model = find_model(config.model, config.data_dir)
    store = open_store(config)
    bags, train, split = choose_bags(model, store, config.split)

    from lungtl.bundle import load_bundle
    from lungtl.results import print_summary, write_results
    from lungtl.training.feature_cache import cached_features
    from lungtl.training.inference import pick_device, predict_bags

    classifier, bundle = load_bundle(model / BUNDLE if (model / BUNDLE).is_dir() else model)
    check_values(store, bundle["provenance"])
    if train is None and bundle["provenance"]["store_fingerprint"] == store.fingerprint:
        log.warning("the model was trained on bags of this dataset: scores are too good; give its run, not its bundle")
    device = pick_device(config.accelerator)
    features = None
    if config.cache.enabled:
        weights = classifier.backbone.fingerprint()
        features = cached_features(classifier, store, config.data_dir, device, weights, max_gb=config.cache.max_gb)
    predictions = predict_bags(classifier, store, list(bags["bag_id"]), features, device)
    document = write_results(
        folder, store, predictions, bags, train, split, classifier.preprocessor.windows[0],
        threshold=config.threshold, resamples=config.resamples, model=str(model), store_name=store.name,
        trained_on=bundle["provenance"]["store"], training_patients=_shared_patients(bags, train),
    )  # fmt: skip
    print_summary(document, folder, ["figures/, metrics.json, predictions.csv and slices.csv lie in that folder"])
    print(folder)


def choose_bags(model: Path, store: Store, wanted: str) -> tuple[pd.DataFrame, pd.DataFrame | None, str]:
    """Which bags are scored.

    Args:
        model: a run's or a bundle's folder.
        store: the prepared dataset.
        wanted: all, train, val, test, or auto: test for the store that the run was trained on, all otherwise.

    Returns:
        The bags to score and the model's training bags (None for a bundle without its run), both with bag_id,
        patient_id, label, diameter_mm, split; and the split's name.

    Raises:
        LungtlError: no labelled bag is left, or a split is asked for that this store does not have.
    """
    from lungtl.data.splits import read_split
    from lungtl.sources.base import UNKNOWN

    labelled = store.bags[store.bags["bag_label"] != UNKNOWN]
    bags = labelled[["bag_id", "patient_id", "diameter_mm"]].assign(label=labelled["bag_label"].astype(int))
    split = read_split(model / SPLIT) if (model / SPLIT).is_file() else None
    same_store = split is not None and read_record(model)["store_fingerprint"] == store.fingerprint
    if wanted == "auto":
        wanted = "test" if same_store else "all"
        log.info("split=%s: the model was %strained on this dataset", wanted, "" if same_store else "not ")
    train = split[split["split"] == "train"] if split is not None else None
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
    if shared := _shared_patients(bags, train):
        log.warning("%d of the patients scored here trained the model: those scores are too good", shared)
    return bags.reset_index(drop=True), train, wanted


def check_values(store: Store, provenance: dict[str, object]) -> None:
    """A model of HU cannot score grey values, nor the reverse; raises LungtlError. Another crop is only a warning."""
    expected, seen = provenance["value_range"], store.manifest["value_range"]
    if expected != seen:
        names = ["HU" if v is None else f"grey values {v}" for v in (expected, seen)]
        raise LungtlError(f"the model was trained on {names[0]}, {store.name} holds {names[1]}; choose another dataset")
    crop = store.manifest["recipe"].get("crop", "none")
    if provenance["crop"] != crop:
        log.warning("the model was trained with dataset.crop=%s, %s has %s", provenance["crop"], store.name, crop)


def _shared_patients(bags: pd.DataFrame, train: pd.DataFrame | None) -> int | None:
    if train is None:
        return None
    return len(set(bags["patient_id"]) & set(train["patient_id"]))


if __name__ == "__main__":
    cli.main("evaluate", EvaluateConfig, run)
