"""What follows training: choose on the validation bags, score the test bags, export, record."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.data.store.reader import Store
from lungtl.runs.folder import BUNDLE, VALIDATION
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import UNKNOWN

if TYPE_CHECKING:
    import pandas as pd
    import torch

    from lungtl.data.bags import Features
    from lungtl.evaluation.chosen import Chosen
    from lungtl.evaluation.document import Document
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.training.losses import BagAndSliceLoss

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainedRun:
    """A run whose network has just been trained.

    Attributes:
        config: of the run.
        folder: of the run.
        store: what it was trained on.
        split: bag_id, patient_id, label, diameter_mm, split.
        classifier: with the weights of the best epoch.
        features: of the store, for the classifier's split; None reads voxels.
        loss: of the run.
        device: where to compute.
        record: what run.json says.
        fitted: what `fit` returned, the seconds that it took, and how many parameters trained.
        choices: group -> the option that was chosen.
    """

    config: TrainConfig
    folder: Path
    store: Store
    split: pd.DataFrame
    classifier: BagClassifier
    features: Features | None
    loss: BagAndSliceLoss
    device: torch.device
    record: Mapping[str, Any]
    fitted: Mapping[str, Any]
    choices: Mapping[str, str]


def finish(run: TrainedRun) -> Document:
    """Choose, score and export; returns what metrics.json holds."""
    from lungtl.bundle import model_card, save_bundle
    from lungtl.evaluation.controls import fit_controls
    from lungtl.evaluation.formatting import rows_for_table, rows_of_localisation, rows_of_points
    from lungtl.runs.scored import ScoredModel
    from lungtl.runs.write import write_results
    from lungtl.sources.lidc_labels import describe_labels
    from lungtl.training.untrained import train_untrained

    config, folder, store, split = run.config, run.folder, run.store, run.split
    settings = config.evaluation
    chosen, auroc = _choose(run)
    untrained = train_untrained(config, store, split, run.loss, run.device) if settings.untrained else None
    controls = fit_controls(split[split["split"] == "train"])
    trained = slices_trained(run)
    model = ScoredModel(run.classifier, config.aggregator, run.features, run.device, chosen, controls, untrained,
                        trained, settings.heatmaps)  # fmt: skip
    test = split[split["split"] == "test"]
    document = write_results(
        folder, store, model, test, "test", resamples=settings.resamples, figures=settings.figures,
        run=dict(run.record), training={**run.fitted, "val_auroc": auroc},
    )  # fmt: skip
    labels = describe_labels(store.manifest["recipe"])
    recorded = {key: str(value) for key, value in run.record.items() if key != "choices"}
    described = {**run.choices, "labels": labels} | recorded
    tables = (rows_for_table(document), rows_of_points(document), rows_of_localisation(document))
    card = model_card(run.record["name"], described, *tables)
    provenance = {**run.record, "cache_precision": config.cache.precision}
    save_bundle(run.classifier, config.aggregator, folder / BUNDLE, provenance, card, chosen, untrained, trained,
                controls)  # fmt: skip
    return document


def slices_trained(run: TrainedRun) -> bool:
    """Whether anything trained the slice head: a loss on slices of known label, or the bags' own through them."""
    bags = run.split.loc[run.split["split"] == "train", "bag_id"]
    known = any((run.store.slice_labels(bag_id) != UNKNOWN).any() for bag_id in bags)
    return run.classifier.aggregator.uses_slice_logits or (run.loss.part_weights["slice_loss"] > 0 and known)


def _choose(run: TrainedRun) -> tuple[Chosen, float | None]:
    """Choose calibration and thresholds from the validation bags alone, and write what they were chosen from.

    Returns:
        The choice, and the AUROC of these bags in the best epoch; None where they are of one class.
    """
    from lungtl.evaluation.chosen import choose, write_chosen
    from lungtl.evaluation.delong import auroc_interval
    from lungtl.models.inference import predict_bags

    validation = run.split[run.split["split"] == "val"]
    predictions = predict_bags(run.classifier, run.store, list(validation["bag_id"]), run.features, run.device)
    table = validation.merge(predictions.bags, on="bag_id", validate="one_to_one")
    table[["bag_id", "patient_id", "label", "probability", "split"]].to_csv(run.folder / VALIDATION, index=False)
    chosen = choose(table, run.config.evaluation.calibration)
    if chosen.calibration.reason is not None:
        log.warning("probabilities are not calibrated: %s", chosen.calibration.reason)
    write_chosen(chosen, run.folder)
    return chosen, auroc_interval(table["label"], table["probability"], table["patient_id"]).value
