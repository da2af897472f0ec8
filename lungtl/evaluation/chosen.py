"""What the validation bags decide once, and all other bags are judged by: calibration and thresholds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lungtl.evaluation.calibration import Calibration, fit_isotonic, fit_platt, fit_temperature
from lungtl.evaluation.operating_points import choose_thresholds
from lungtl.settings.errors import LungtlError

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

FILE = "calibration.json"
"""In a run's folder and in its bundle."""

KINDS = ("platt", "temperature", "isotonic")

Kind = Literal["platt", "temperature", "isotonic", "none"]

OLDER = Calibration(reason="not fitted by the version of lungtl that trained the model")
"""What stands for platt in files of version 0.1.0."""


@dataclass(frozen=True)
class Chosen:
    """Calibration maps and thresholds, fitted on validation bags alone.

    Attributes:
        kind: the calibration that predictions carry.
        n: validation bags.
        n_patients: whose bags.
        n_positive: of those bags.
        platt: of kind none, with the reason, where it could not be fitted.
        temperature: likewise.
        isotonic: likewise.
        thresholds: operating point -> the probability, not calibrated, from which a bag counts as positive; None
            where no threshold reaches it.
    """

    kind: Kind
    n: int
    n_patients: int
    n_positive: int
    platt: Calibration
    temperature: Calibration
    isotonic: Calibration
    thresholds: Mapping[str, float | None]

    @property
    def calibration(self) -> Calibration:
        """The map of `kind`."""
        return self.maps.get(self.kind, Calibration())

    @property
    def maps(self) -> dict[str, Calibration]:
        """Kind -> its map."""
        return {"platt": self.platt, "temperature": self.temperature, "isotonic": self.isotonic}

    def calibrated(self, probabilities: ArrayLike) -> NDArray[np.float64] | None:
        """What predictions carry beside their probabilities [N]; None where there is no map to apply."""
        return None if self.calibration.kind == "none" else self.calibration.apply(probabilities)

    def to_dict(self) -> dict[str, Any]:
        """Give plain JSON values, which `from_dict` takes."""
        maps = {kind: fitted.to_dict() for kind, fitted in self.maps.items()}
        return vars(self) | maps | {"thresholds": dict(self.thresholds)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Chosen:
        """Read what `to_dict` gave; raises LungtlError when it is none."""
        from pydantic import ValidationError

        from lungtl.evaluation import schema

        try:
            schema.Chosen.model_validate(document)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise LungtlError(f"{FILE} is damaged ({where}: {first['msg']}); fetch the bundle again") from error
        given = {kind: Calibration.from_dict(document[kind]) for kind in KINDS if kind in document}
        return cls(**{"platt": OLDER, **document, **given})


def choose(validation: pd.DataFrame, kind: Kind) -> Chosen:
    """Fit every calibration and choose the thresholds.

    Args:
        validation: a row a validation bag: patient_id, label (0 or 1), probability.
        kind: the calibration that predictions are to carry.

    Raises:
        LungtlError: on input that `lungtl.evaluation.metrics.score` refuses.
    """
    labels, probabilities = validation["label"], validation["probability"]
    return Chosen(
        kind=kind,
        n=len(validation),
        n_patients=int(validation["patient_id"].nunique()),
        n_positive=int(labels.sum()),
        platt=fit_platt(labels, probabilities),
        temperature=fit_temperature(labels, probabilities),
        isotonic=fit_isotonic(labels, probabilities),
        thresholds=choose_thresholds(labels, probabilities),
    )


def write_chosen(chosen: Chosen, folder: Path) -> None:
    """Write `calibration.json` into a folder."""
    (folder / FILE).write_text(json.dumps(chosen.to_dict(), indent=2, allow_nan=False))


def read_chosen(folder: Path) -> Chosen | None:
    """What `write_chosen` wrote; None where the folder has none, as bundles of version 0.1.0 have not.

    Raises:
        LungtlError: the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text())
    except ValueError as error:
        raise LungtlError(f"{path} is damaged ({error}); fetch the bundle again") from error
    return Chosen.from_dict(document)
