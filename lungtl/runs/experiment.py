"""One training run, from a checked config and a prepared store to the results in its folder.

Knows neither Hydra nor MLflow: the train command and the Python API both call `run_experiment`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from omegaconf import OmegaConf

from lungtl.data.field_of_view import check_slices
from lungtl.data.splits import save_split
from lungtl.data.store.reader import Store
from lungtl.data.tables import read_table
from lungtl.evaluation.covariates import WITH_COVARIATES, check_covariates
from lungtl.evaluation.figures import learning_curves, save
from lungtl.runs.environment import write_environment
from lungtl.runs.epochs import read_epochs
from lungtl.runs.folder import CONFIG, FIGURES, PREDICTIONS, PRUNED, RECORD, SLICES, SPLIT, read_record, write_record
from lungtl.runs.record import check_bundle, check_monitor, check_unchanged, check_weights_patients, make_record
from lungtl.runs.scoring import export_bundle, score_run
from lungtl.runs.training import train
from lungtl.settings.credentials import hide_password
from lungtl.settings.schema import TrainConfig
from lungtl.sources.base import sha256
from lungtl.training.build import build_classifier
from lungtl.training.checkpoints import check_checkpoint
from lungtl.training.devices import available_device, device_name
from lungtl.training.fit import seed_everything

if TYPE_CHECKING:
    from pytorch_lightning.callbacks import Callback  # which imports torchvision, see `lungtl.models.compat`

log = logging.getLogger(__name__)
LEARNING = "learning.png"
NUMBERS = ("calibrated", WITH_COVARIATES, "z_mm", "p_non_nodule", "p_benign", "p_malignant")
"""Columns of predictions.csv and slices.csv that may be empty."""


class Observer:
    """Receives the progress of a run; this one does nothing."""

    run_id: str | None = None
    """The run's id in MLflow."""

    def started(self, folder: Path) -> None:
        """The network is built, and the run's folder holds its record, config, split and environment."""

    def epoch(self, values: Mapping[str, float], epoch: int) -> None:
        """An epoch has ended."""

    def pruned(self, folder: Path) -> None:
        """A search stopped the run early; there are no results."""

    def finished(self, folder: Path) -> None:
        """The run's folder holds its results."""


@dataclass(frozen=True)
class Result:
    """What a finished run left in its folder.

    Attributes:
        folder: of the run.
        metrics: the content of metrics.json (docs/metrics.md).
    """

    folder: Path
    metrics: dict[str, Any] = field(repr=False)

    @property
    def predictions(self) -> pd.DataFrame:
        """A row for each test scan, nodule or patient: bag_id, patient_id, label, probability, calibrated."""
        return _read(self.folder / PREDICTIONS)

    @property
    def slices(self) -> pd.DataFrame:
        """A row for each slice of these: index, z_mm, label, weight, class probabilities."""
        return _read(self.folder / SLICES)


def run_experiment(
    config: TrainConfig,
    store: Store,
    split: pd.DataFrame,
    folder: Path,
    *,
    name: str,
    resume: bool = False,
    observer: Observer | None = None,
    callbacks: Sequence[Callback] = (),
) -> Result | None:
    """Build, train, score and export.

    Args:
        config: of the run.
        store: what it trains on and is tested on.
        split: of `lungtl.data.splits.split_bags`.
        folder: of the run; is created.
        name: of the run.
        resume: continue from the folder's last checkpoint; the settings are checked by the caller (`check_settings`).
        observer: receives the progress of the run.
        callbacks: further Lightning callbacks.

    Returns:
        None if a callback pruned the run, which then has no results.

    Raises:
        UsageError: the monitored value is undefined, bundle=head does not suit the backbone, the starting weights
            have seen this run's test patients, or the dataset lacks a covariate.
        LungtlError: image.crop_mm does not suit the dataset, a resumed run's data or weights have changed, or training
            found no usable epoch.
    """
    observer = observer or Observer()
    resume = resume and (folder / RECORD).is_file()
    check_covariates(store.bags, split, config.covariates)
    check_monitor(config.trainer.monitor, split)
    seed_everything(config.seed)
    classifier = build_classifier(config, store.value_range)
    check_bundle(config.bundle, classifier.backbone)
    check_slices(classifier.preprocessor.crop_mm, store.bags, store.name)
    device = available_device(config.trainer.accelerator)
    record = make_record(config, store, split, classifier.backbone, name=name, mlflow_run_id=observer.run_id)
    if resume:
        earlier = read_record(folder)
        check_checkpoint(folder)
        check_unchanged(earlier, record)
        record["mlflow_run_id"] = observer.run_id or earlier["mlflow_run_id"]
    check_weights_patients(str(config.backbone.get("weights", "auto")), record["weights_split_fingerprint"], split)

    folder.mkdir(parents=True, exist_ok=True)
    (folder / PRUNED).unlink(missing_ok=True)  # of an earlier attempt
    write_config(config, folder)
    save_split(split, folder / SPLIT)
    write_environment(folder, device_name(device))
    record["split_sha256"] = sha256(folder / SPLIT)
    write_record(folder, record)  # last: a run that has one can be resumed
    observer.started(folder)

    trained = train(
        config, store, split, folder, classifier, device, on_epoch=observer.epoch, callbacks=callbacks, resume=resume
    )  # fmt: skip
    if (folder / PRUNED).is_file():
        observer.pruned(folder)
        return None
    if config.evaluation.figures:
        best, unfrozen = int(trained.facts["best_epoch"]), trained.unfrozen
        save(learning_curves(read_epochs(folder), best, unfrozen), folder / FIGURES / LEARNING)
    scored, document = score_run(config, store, split, folder, trained, record)
    export_bundle(folder, config, store, split, scored, document, record)
    observer.finished(folder)
    return Result(folder, document)


def write_config(config: TrainConfig, folder: Path) -> None:
    """Write config.yaml: every setting, resolved, but no password."""
    text = OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json")))
    (folder / CONFIG).write_text(hide_password(text), encoding="utf-8")


def _read(path: Path) -> pd.DataFrame:
    return read_table(path, missing=dict.fromkeys(NUMBERS, ("",)))
