"""A trained model that anyone can load without Hydra or pickle: a folder with config, safetensors and a card.

docs/bundle.md describes its files. `SHA256SUMS` lists the checksums of all but `card.md`, which may be annotated.
"""

from __future__ import annotations

from lungtl.bundle.card import card_document, model_card
from lungtl.bundle.files import (
    CARD,
    CARD_DATA,
    CONFIG,
    FILES,
    FORMAT,
    PROBE,
    SEEN,
    UNTRAINED,
    WEIGHTS,
    check_format,
)
from lungtl.bundle.ranges import Ranges, merge_ranges, read_ranges, write_ranges
from lungtl.bundle.read import load_bundle, load_covariates, load_probe, load_reference, load_untrained
from lungtl.bundle.reference import Reference
from lungtl.bundle.write import save_bundle

__all__ = [
    "CARD", "CARD_DATA", "CONFIG", "FILES", "FORMAT", "PROBE", "SEEN", "UNTRAINED", "WEIGHTS", "Ranges", "Reference",
    "card_document", "check_format", "load_bundle", "load_covariates", "load_probe", "load_reference",
    "load_untrained", "merge_ranges", "model_card", "read_ranges", "save_bundle", "write_ranges",
]  # fmt: skip
