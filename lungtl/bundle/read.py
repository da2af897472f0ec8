"""Rebuild a trained model from its bundle's folder."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from lungtl.bundle.files import (
    BACKBONE,
    CONFIG,
    COVARIATES,
    PROBE,
    REFERENCE,
    TIMM,
    UNTRAINED,
    WEIGHTS,
    check_format,
    damaged,
)
from lungtl.bundle.reference import Reference
from lungtl.data.store.files import check_checksums
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError

if TYPE_CHECKING:
    from torch import Tensor

    from lungtl.evaluation.covariates import Regression
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.training.probe import Probe

log = logging.getLogger(__name__)
Part = TypeVar("Part")


def load_bundle(folder: Path, trust: str | Collection[str] = ()) -> tuple[BagClassifier, dict[str, Any]]:
    """Rebuild the classifier.

    Args:
        folder: of the bundle, or of its run.
        trust: packages outside lungtl whose classes the bundle may name.

    Returns:
        The classifier in evaluation mode, and the bundle's config.

    Raises:
        LungtlError: the folder is not a bundle, a file was altered, its weights do not fit its config, or it names an
            untrusted class; or the weights of its backbone, which it does not contain, cannot be loaded or are others.
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
        check_format(folder, config)
        config.setdefault("slices_trained", True)  # the first bundles lack it
        source = _Config.model_validate(config).backbone_weights
        with no_larger_than(folder / WEIGHTS):
            classifier = _network(config, trust, "none" if source is None else source.source)
        state = load_file(folder / WEIGHTS)
        if source is not None:
            state |= _checked_backbone(classifier, source, folder)
        classifier.load_state_dict(state)
    except ValidationError as error:
        first = error.errors()[0]
        raise damaged(folder, ValueError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}")) from error
    except (LookupError, TypeError, AttributeError, ImportError, ValueError, RuntimeError, SafetensorError) as error:
        raise damaged(folder, error) from error
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
        raise damaged(folder, error) from error
    return classifier.eval(), drawn


def load_probe(folder: Path) -> Probe | None:
    """The probe of a bundle; None if it has none. Raises LungtlError if the file is damaged."""
    from lungtl.training.probe import Probe

    return _read(folder / PROBE, Probe.load)


def load_covariates(folder: Path, config: Mapping[str, Any]) -> Regression | Probe | None:
    """What a bundle's model predicts with from covariates; None if it has none. Raises LungtlError if damaged."""
    from lungtl.evaluation.controls import read_numbers
    from lungtl.evaluation.covariates import Regression
    from lungtl.training.probe import Probe

    if (saved := config.get("covariates")) is not None:
        return read_numbers(Regression, saved, "covariates")
    return _read(folder / COVARIATES, Probe.load)


def load_reference(folder: Path) -> Reference | None:
    """The embeddings of a bundle's training bags; None if it has none. Raises LungtlError if the file is damaged."""
    return _read(folder / REFERENCE, Reference.load)


def _read(path: Path, load: Callable[[Path], Part]) -> Part | None:
    from safetensors import SafetensorError

    if not path.is_file():
        return None
    try:
        return load(path)
    except (LookupError, TypeError, ValueError, SafetensorError) as error:
        raise damaged(path.parent, error) from error


class _Lenient(BaseModel):
    """A section of config.json; further keys are checked where they are used."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Preprocessing(_Lenient):
    size: Annotated[int, Field(ge=1, le=4096)]
    crop: Annotated[int, Field(ge=1)] | None = None


class _Provenance(_Lenient):
    crop: Literal["none", "lungs"] = "none"
    value_range: Annotated[list[int], Field(min_length=2, max_length=2)] | None = None


class _BackboneWeights(_Lenient):
    source: Literal["hub", "wheel"]
    fingerprint: str


class _Config(_Lenient):
    """What a bundle's config must have, before anything is built from it."""

    backbone_weights: _BackboneWeights | None = None  # of a bundle without its backbone
    preprocessing: _Preprocessing
    provenance: _Provenance


def _checked_backbone(classifier: BagClassifier, expected: _BackboneWeights, folder: Path) -> dict[str, Tensor]:
    """The tensors of a backbone that the bundle does not contain; raises LungtlError unless they are the expected."""
    if classifier.backbone.fingerprint() != expected.fingerprint:
        raise LungtlError(
            f"{folder} was trained with other weights of {classifier.backbone.name} than the {expected.source} has; "
            "install the timm and the weights that it was trained with, or train it again with bundle=full"
        )
    return {key: value for key, value in classifier.state_dict().items() if key.startswith(BACKBONE)}


def _network(config: Mapping[str, Any], trust: str | Collection[str], weights: str = "none") -> BagClassifier:
    """The network that a bundle's config describes, with random weights, the backbone's drawn first, or its weights."""
    from lungtl.data.windows import SlicePreprocessor
    from lungtl.models.aggregators.base import Aggregator
    from lungtl.models.backbones.base import Backbone
    from lungtl.models.bag_classifier import BagClassifier
    from lungtl.models.slice_projection import SliceProjection

    spec = {parts.TARGET: TIMM, **config["backbone"], "weights": weights}
    backbone: Backbone = parts.build_trusted(spec, Backbone, trust)
    preprocessor = SlicePreprocessor(**config["preprocessing"])
    backbone.set_input_size(preprocessor.size)
    scales, head = preprocessor.scales, config["head"]
    projection = SliceProjection(backbone.dim * scales, head["width"], head["dropout"])
    aggregator: Aggregator = parts.build_trusted(config["aggregator"], Aggregator, trust, dim=projection.width)
    views = config.get("views", 1)  # the first bundles lack it
    return BagClassifier(preprocessor, backbone, projection, aggregator, views=views)
