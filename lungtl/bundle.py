"""A trained model that anyone can load without Hydra or pickle: a folder with config, safetensors and a card.

More files are optional: `calibration.json`, chosen on the validation split (see `lungtl.evaluation.chosen`);
`untrained.safetensors`, the head of the untrained control (see `lungtl.training.untrained`), whose random backbone is
drawn again from its seed; `probe.safetensors`, the probe of its features (see `lungtl.training.probe`), and
`covariates.safetensors`, the same with covariates; and `seen.json`, the checksums of the voxels that trained the model
or chose its epoch. `SHA256SUMS` lists the checksums of all but the card.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from lungtl.data.store.files import check_checksums, write_checksums
from lungtl.evaluation.chosen import FILE as CALIBRATION
from lungtl.evaluation.chosen import Chosen, write_chosen
from lungtl.evaluation.formatting import INTERVALS, Rows, markdown_table
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from lungtl.settings.version import VERSION

if TYPE_CHECKING:
    from lungtl.evaluation.controls import Controls
    from lungtl.evaluation.covariates import Regression
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.training.probe import Probe
    from lungtl.training.untrained import Untrained

log = logging.getLogger(__name__)
FORMAT = 1
CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
UNTRAINED, PROBE, SEEN = "untrained.safetensors", "probe.safetensors", "seen.json"
COVARIATES = "covariates.safetensors"
FILES = (CONFIG, WEIGHTS, CALIBRATION, UNTRAINED, PROBE, COVARIATES, SEEN)
"""What `SHA256SUMS` lists."""
BACKBONE = "backbone."
TIMM = "lungtl.models.backbones.timm_backbone.TimmBackbone"


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
    save_file({k: v.cpu().contiguous() for k, v in classifier.state_dict().items()}, folder / WEIGHTS)
    (folder / CARD).write_text(card, encoding="utf-8")
    if chosen is not None:
        write_chosen(chosen, folder)
    if untrained is not None:
        state = untrained.classifier.state_dict()
        head = {k: v.cpu().contiguous() for k, v in state.items() if not k.startswith(BACKBONE)}
        save_file(head, folder / UNTRAINED, {"backbone": untrained.fingerprint})
    if probe is not None:
        probe.save(folder / PROBE)
    if isinstance(covariates, Probe):
        covariates.save(folder / COVARIATES)
    if seen is not None:
        (folder / SEEN).write_text(json.dumps(seen), encoding="utf-8")
    write_checksums(folder, FILES)


def load_bundle(folder: Path, trust: str | Collection[str] = ()) -> tuple[BagClassifier, dict[str, Any]]:
    """Rebuild the classifier.

    Args:
        folder: of the bundle, or of its run.
        trust: packages outside lungtl whose classes the bundle may name.

    Returns:
        The classifier in evaluation mode, and the bundle's config.

    Raises:
        LungtlError: the folder is not a bundle, a file was altered, its weights do not fit its config, or it names an
            untrusted class.
    """
    from pydantic import ValidationError
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    from lungtl.models.bounded import no_larger_than

    if (folder / "bundle" / CONFIG).is_file():
        folder = folder / "bundle"
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise LungtlError(f"{folder} is not a bundle ({CONFIG} and {WEIGHTS}); give a run's folder or its bundle/")
    check_checksums(folder)
    try:
        config: dict[str, Any] = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        if config.get("format") != FORMAT:
            raise LungtlError(f"{folder} has bundle format {config.get('format')}, this lungtl reads {FORMAT}")
        config.setdefault("slices_trained", True)  # the first bundles lack it
        _Config.model_validate(config)
        with no_larger_than(folder / WEIGHTS):
            classifier = _network(config, trust)
        classifier.load_state_dict(load_file(folder / WEIGHTS))
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(folder, ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from error
    except (LookupError, TypeError, AttributeError, ImportError, ValueError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    return classifier.eval(), config


def load_untrained(
    folder: Path, config: Mapping[str, Any], trust: str | Collection[str] = ()
) -> tuple[BagClassifier, str] | None:
    """Rebuild the untrained control of a bundle.

    Args:
        folder: of the bundle.
        config: the bundle's.
        trust: packages outside lungtl whose classes the bundle may name.

    Returns:
        The classifier in evaluation mode and the fingerprint of its backbone. None if the bundle has none, or, with a
        warning, if this version of lungtl, timm or torch draws a different random backbone.

    Raises:
        LungtlError: the file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    from lungtl.training.untrained import draw_classifier

    if not (folder / UNTRAINED).is_file():
        return None
    try:
        with safe_open(folder / UNTRAINED, "pt") as file:
            head = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # it is no mapping
            fingerprint = file.metadata()["backbone"]
        classifier, drawn = draw_classifier(lambda: _network(config, trust))
        if drawn != fingerprint:
            log.warning("no untrained control: this lungtl, torch or timm draws a different random backbone")
            return None
        backbone = {key: value for key, value in classifier.state_dict().items() if key.startswith(BACKBONE)}
        classifier.load_state_dict(backbone | head)
    except (LookupError, TypeError, RuntimeError, SafetensorError) as error:
        raise _damaged(folder, error) from error
    return classifier.eval(), drawn


def load_probe(folder: Path) -> Probe | None:
    """The probe of a bundle; None if it has none. Raises LungtlError if the file is damaged."""
    return _load_probe(folder, PROBE)


def load_covariates(folder: Path, config: Mapping[str, Any]) -> Regression | Probe | None:
    """What a bundle's model predicts with from covariates; None if it has none. Raises LungtlError if damaged."""
    from lungtl.evaluation.controls import read_numbers
    from lungtl.evaluation.covariates import Regression

    if (saved := config.get("covariates")) is not None:
        return read_numbers(Regression, saved, "covariates")
    return _load_probe(folder, COVARIATES)


def _load_probe(folder: Path, name: str) -> Probe | None:
    from safetensors import SafetensorError

    from lungtl.training.probe import Probe

    if not (folder / name).is_file():
        return None
    try:
        return Probe.load(folder / name)
    except (LookupError, TypeError, ValueError, SafetensorError) as error:
        raise _damaged(folder, error) from error


class _Lenient(BaseModel):
    """A section of config.json; further keys are checked where they are used."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Preprocessing(_Lenient):
    size: Annotated[int, Field(ge=1, le=4096)]
    crop: Annotated[int, Field(ge=1)] | None = None


class _Provenance(_Lenient):
    crop: Literal["none", "lungs"] = "none"
    value_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None


class _Config(_Lenient):
    """What a bundle's config must have, before anything is built from it."""

    preprocessing: _Preprocessing
    provenance: _Provenance


def _network(config: Mapping[str, Any], trust: str | Collection[str]) -> BagClassifier:
    """The network that a bundle's config describes, with random weights; the backbone's are drawn first."""
    from lungtl.data.windows import SlicePreprocessor
    from lungtl.models.aggregators.base import Aggregator
    from lungtl.models.backbones.base import Backbone
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.models.slice_projection import SliceProjection

    spec = {parts.TARGET: TIMM, **config["backbone"], "weights": "none"}
    backbone: Backbone = parts.build_trusted(spec, Backbone, trust)
    preprocessor = SlicePreprocessor(**config["preprocessing"])
    backbone.set_input_size(preprocessor.size)
    scales, head = preprocessor.scales, config["head"]
    projection = SliceProjection(backbone.dim * scales, head["width"], head["dropout"])
    aggregator: Aggregator = parts.build_trusted(config["aggregator"], Aggregator, trust, dim=projection.width)
    views = config.get("views", 1)  # the first bundles lack it
    return BagClassifier(preprocessor, backbone, projection, aggregator, views=views)


def _damaged(folder: Path, error: Exception) -> LungtlError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return LungtlError(f"{folder} is a damaged bundle ({reason}); fetch it again")


def model_card(title: str, settings: Mapping[str, str], *tables: Rows) -> str:
    """The bundle's README: what the model is, what it is for, how it scored.

    Args:
        title: the run's name.
        settings: dataset, backbone, freezing, aggregator, fingerprints.
        tables: of the metrics, header first; empty ones are omitted.
    """
    lines = [
        f"# {title}",
        "",
        "A chest CT malignancy model trained with lungtl. **Research software: not a medical device**; not for",
        "diagnosis or any decision about a patient. Trained and scored on the data named below alone.",
        "",
        *(f"- {key}: {value}" for key, value in settings.items()),
        "",
        "Test metrics next to those of trivial predictors on the same split.",
        f"{INTERVALS}.",
        "",
        *(line for rows in tables if rows for line in [*markdown_table(rows), ""]),
        "Calibration and thresholds were chosen on the validation split (`calibration.json`).",
        "",
        "Load it: `import lungtl; model = lungtl.load(FOLDER)`; then `model.predict(volume_hu, spacing_mm=...)`.",
        "",
    ]
    return "\n".join(lines)
