"""The models of a command: `model=A` or, averaged, `model=A,B`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lungtl.bundle.ranges import PHANTOM
from lungtl.data.store.files import SUMS
from lungtl.models.inference import P_COLUMNS
from lungtl.predict.result import Decision, ModelResult
from lungtl.runs.folder import bundle_of, find_model
from lungtl.runs.model import Model, Prediction
from lungtl.settings.errors import LungtlError
from lungtl.sources.base import fingerprint, sha256


@dataclass(frozen=True)
class NamedModel:
    """A model of the command."""

    name: str  # unique among them
    model: Model
    fingerprint: str  # of its bundle's content

    @property
    def phantom(self) -> bool:
        """Whether synthetic scans trained it, so that its predictions have no clinical meaning."""
        return is_of_phantoms(self.model)

    def result(self, prediction: Prediction, with_covariates: float | None = None) -> ModelResult:
        """A prediction and the decisions at the model's operating points."""
        thresholds = {} if self.model.chosen is None else self.model.chosen.thresholds
        decisions = {
            name: None if threshold is None else Decision(threshold, prediction.probability >= threshold)
            for name, threshold in thresholds.items()
        }
        return ModelResult(self.name, self.model, prediction, decisions, with_covariates)


def is_of_phantoms(model: Model) -> bool:
    """Whether synthetic scans trained a model."""
    choices: dict[str, Any] = model.provenance.get("choices") or {}  # of bundles without ranges
    ranges = (one.ranges for one in (model, *model.members))
    return choices.get("dataset") == PHANTOM or any(each is not None and each.phantom for each in ranges)


def open_models(references: Sequence[str], data_dir: Path, accelerator: str, trust: Sequence[str]) -> list[NamedModel]:
    """Open all models.

    Raises:
        LungtlError: there is no such model, it is damaged, or the models predict different things.
    """
    folders = [find_model(reference, data_dir) for reference in references]
    models = [Model.open(folder, accelerator, trust) for folder in folders]
    if len(kinds := {model.unit for model in models}) > 1:
        raise LungtlError(f"the models predict different things: {' and '.join(sorted(kinds))}s; predict one by one")
    names = [str(model.provenance["name"]) for model in models]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        NamedModel(f"{name} ({folder.name})" if name in repeated else name, model, _fingerprint(bundle_of(folder)))
        for name, folder, model in zip(names, folders, models, strict=True)
    ]


def _fingerprint(bundle: Path) -> str:
    sums = sorted(bundle.rglob(SUMS))
    if sums:
        return fingerprint([path.read_text(encoding="utf-8") for path in sums])
    return fingerprint([sha256(path) for path in sorted(bundle.rglob("*")) if path.is_file()])


def combine(results: Sequence[ModelResult]) -> tuple[float, float | None, dict[str, Any]]:
    """The mean over the models, the standard deviation between their networks, and the mean columns of slices."""
    networks = [p for each in results for p in each.prediction.of_members]
    tables = [each.prediction.slices for each in results]
    columns = {name: np.mean([table[name] for table in tables], axis=0) for name in ("weight", *P_COLUMNS)}
    probability = float(np.mean([each.prediction.probability for each in results]))
    return probability, float(np.std(networks, ddof=1)) if len(networks) > 1 else None, columns
