"""What an evaluation leaves behind: metrics.json, predictions.csv, slices.csv and figures."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.data.store.reader import Store
from lungtl.runs.folder import FIGURES, METRICS, PREDICTIONS, SLICES
from lungtl.runs.scored import ScoredModel

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.models.inference import Predictions

P_COLUMNS = ("p_non_nodule", "p_benign", "p_malignant")
"""Of slices.csv: what the slice head says."""


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
) -> dict[str, Any]:
    """Predict bags, score the predictions beside their controls, and write everything.

    Args:
        folder: gets the files.
        store: where the bags lie.
        scored: predicts them.
        bags: bag_id, patient_id, label (0 or 1), diameter_mm, split.
        split: the name under which the scores stand.
        chose: whether these are the bags that chose calibration and thresholds, which are then not scored on them.
        threshold: probability from which a bag counts as positive.
        resamples: of patients, for the intervals.
        figures: draw them too.
        context: further keys of metrics.json.

    Returns:
        The document that metrics.json holds.

    Raises:
        pydantic.ValidationError: it does not follow the schema; metrics.json is not written then.
    """
    from lungtl.evaluation.assess import assess
    from lungtl.evaluation.document import check_document
    from lungtl.evaluation.subgroups import subgroups
    from lungtl.models.inference import predict_bags
    from lungtl.runs.figures import draw

    folder.mkdir(parents=True, exist_ok=True)
    predictions = predict_bags(scored.classifier, store, list(bags["bag_id"]), scored.features, scored.device)
    if not scored.slices_trained:
        predictions = replace(predictions, slices=predictions.slices.assign(**dict.fromkeys(P_COLUMNS)))
    table = bags.merge(predictions.bags, on="bag_id", validate="one_to_one")
    chosen = scored.chosen
    table["calibrated"] = None if chosen is None else chosen.calibrated(table["probability"])
    columns = ["bag_id", "patient_id", "label", "probability", "calibrated", "split"]
    predictions.slices.to_csv(folder / SLICES, index=False)
    controls = scored.controls.predict(table) if scored.controls is not None else {}
    if scored.untrained is not None:
        control = scored.untrained
        said = predict_bags(control.classifier, store, list(table["bag_id"]), control.features, scored.device)
        controls["untrained"] = table[["bag_id"]].merge(said.bags, on="bag_id")["probability"].to_numpy()
        table["control_untrained"] = controls["untrained"]
        columns.append("control_untrained")
    table[columns].to_csv(folder / PREDICTIONS, index=False)
    document = assess(
        table,
        predictions.slices,
        split=split,
        controls=controls,
        chosen=chosen,
        groups=subgroups(table[["bag_id"]].merge(store.bags, on="bag_id"), store.nodules),
        untrained_weights=_untrained_weights(scored, store, predictions),
        slices_trained=scored.slices_trained,
        chose=chose,
        threshold=threshold,
        resamples=resamples,
        **context,
    )
    check_document(document)
    (folder / METRICS).write_text(json.dumps(document, indent=2, allow_nan=False))
    if figures:
        draw(folder / FIGURES, store, scored, predictions, table, controls, document, resamples)
    return document


def _untrained_weights(model: ScoredModel, store: Store, predictions: Predictions) -> pd.DataFrame | None:
    """Of the bags that can tell where nodules are; None where there are none, or the aggregator has no opinion."""
    from lungtl.evaluation.localisation import mixed_bags, weights_differ
    from lungtl.training.untrained import untrained_weights

    bags = mixed_bags(predictions.slices)
    if not bags or not weights_differ(predictions.slices):
        return None
    return untrained_weights(model.classifier, model.aggregator, store, bags, model.features, model.device)
