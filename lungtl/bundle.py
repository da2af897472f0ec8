"""A trained model that anyone can load without Hydra or pickle: a folder with config, safetensors and a card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl import __version__, plugins
from lungtl.errors import LungtlError

if TYPE_CHECKING:
    from lungtl.models.bag_classifier import BagClassifier

FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"


def save_bundle(
    classifier: BagClassifier, aggregator: Mapping[str, Any], folder: Path, provenance: Mapping[str, Any], card: str
) -> None:
    """Write a bundle.

    Args:
        classifier: trained.
        aggregator: its config (`_target_` and options).
        folder: is created.
        provenance: what it was trained on: store, split, weights fingerprints.
        card: Markdown, see `model_card`.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "format": FORMAT,
        "lungtl": __version__,
        "backbone": {"name": classifier.backbone.name, "features": classifier.backbone.features},
        "head": {
            "width": classifier.projection.linear.out_features,
            "dropout": classifier.projection.dropout.p,
        },
        "aggregator": dict(aggregator),
        "preprocessing": classifier.preprocessor.describe(),
        "provenance": dict(provenance),
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=2))
    save_file({k: v.cpu().contiguous() for k, v in classifier.state_dict().items()}, folder / WEIGHTS)
    (folder / CARD).write_text(card)


def load_bundle(folder: Path) -> tuple[BagClassifier, dict[str, Any]]:
    """Rebuild the classifier.

    Returns:
        The classifier in evaluation mode, and the bundle's config.

    Raises:
        LungtlError: the folder is no bundle, or its weights do not fit its config.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lungtl.data.windows import SlicePreprocessor
    from lungtl.models.backbones.timm_backbone import TimmBackbone
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.models.slice_projection import SliceProjection

    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise LungtlError(f"{folder} is not a bundle ({CONFIG} and {WEIGHTS}); give a run's folder or its bundle/")
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text())
        if config.get("format") != FORMAT:
            raise LungtlError(f"{folder} has bundle format {config.get('format')}, this lungtl reads {FORMAT}")
        backbone = TimmBackbone(**config["backbone"], weights="none")
        preprocessor = SlicePreprocessor(**config["preprocessing"])
        backbone.set_input_size(preprocessor.size)
        width = config["head"]["width"]
        projection = SliceProjection(backbone.dim, width, config["head"]["dropout"])
        aggregator = plugins.build(config["aggregator"], dim=width)
        classifier = BagClassifier(preprocessor, backbone, projection, aggregator)
        classifier.load_state_dict(load_file(folder / WEIGHTS))
    except (LookupError, TypeError, AttributeError, ImportError, ValueError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise LungtlError(f"{folder} is a damaged bundle ({reason}); fetch it again") from error
    return classifier.eval(), config


def model_card(title: str, settings: Mapping[str, str], rows: list[tuple[str, ...]]) -> str:
    """The bundle's README: what it is, what it is for, how it scored.

    Args:
        title: the run's name.
        settings: dataset, backbone, freezing, aggregator, fingerprints.
        rows: the metrics table, its header first.
    """
    table = [f"| {' | '.join(row)} |" for row in rows]
    table.insert(1, "|" + " --- |" * len(rows[0]))
    lines = [
        f"# {title}",
        "",
        "A chest CT malignancy model trained with lungtl. **Research software: not a medical device**; not for",
        "diagnosis or any decision about a patient. Trained and scored on the data named below alone.",
        "",
        *(f"- {key}: {value}" for key, value in settings.items()),
        "",
        "Test metrics with 95 % intervals (bootstrap over patients), beside trivial predictors on the same split:",
        "",
        *table,
        "",
        "Load it: `from lungtl.bundle import load_bundle; classifier, config = load_bundle(Path(...))`.",
        "",
    ]
    return "\n".join(lines)
