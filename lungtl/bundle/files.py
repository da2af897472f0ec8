"""Names of a bundle's files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lungtl.evaluation.chosen import FILE as CALIBRATION
from lungtl.settings.errors import LungtlError

FORMAT = 1
CONFIG, WEIGHTS, CARD, CARD_DATA = "config.json", "model.safetensors", "card.md", "card.json"
UNTRAINED, PROBE, SEEN = "untrained.safetensors", "probe.safetensors", "seen.json"
COVARIATES = "covariates.safetensors"
RANGES, REFERENCE = "ranges.json", "reference.safetensors"
BACKBONE = "backbone."
"""Prefix of the backbone's tensors."""
TIMM = "lungtl.models.backbones.timm_backbone.TimmBackbone"
FILES = (CONFIG, WEIGHTS, CALIBRATION, UNTRAINED, PROBE, COVARIATES, SEEN, RANGES, REFERENCE, CARD_DATA)
"""What `SHA256SUMS` lists: all but `card.md`, which may be annotated."""


def check_format(folder: Path, config: Any) -> None:
    """Raise LungtlError for the config of something else than a bundle, or of a newer one."""
    if not isinstance(config, dict) or "format" not in config:
        raise LungtlError(f"{folder} is not a bundle of lungtl ({CONFIG} has no format); give a run's folder")
    if config["format"] != FORMAT:
        raise LungtlError(
            f"{folder} has bundle format {config['format']}, this lungtl reads {FORMAT}; install a newer lungtl"
        )


def damaged(folder: Path, error: Exception) -> LungtlError:
    """The refusal of a damaged bundle, in one line."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return LungtlError(f"{folder} is a damaged bundle ({reason}); fetch it again")
