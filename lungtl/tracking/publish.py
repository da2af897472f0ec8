"""Record a run or an evaluation from the files of its folder alone, so that it can be sent again at any time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lungtl.bundle import CARD
from lungtl.evaluation.chosen import FILE as CALIBRATION
from lungtl.evaluation.document import main_metrics
from lungtl.evaluation.formatting import format_estimate, headlines
from lungtl.runs.environment import ENVIRONMENT
from lungtl.runs.epochs import read_epochs
from lungtl.runs.folder import (
    BUNDLE,
    CONFIG,
    FIGURES,
    METRICS,
    PREDICTIONS,
    RECORD,
    SLICES,
    SPLIT,
    VALIDATION,
    read_json,
    read_record,
    read_yaml,
)
from lungtl.runs.log import LOG
from lungtl.runs.summary import SUMMARY
from lungtl.settings.errors import LungtlError
from lungtl.settings.keys import flatten, override_key
from lungtl.settings.parts import TARGET
from lungtl.tracking.mlflow_run import FOLDER, Tracker

CHECKPOINTS = "checkpoints"


def run(tracker: Tracker, folder: Path) -> None:
    """Everything that the run's folder holds so far."""
    start(tracker, folder)
    epochs(tracker, folder)
    results(tracker, folder)


def epochs(tracker: Tracker, folder: Path) -> None:
    """The epochs of epochs.csv; MLflow keeps one value a step, however often it is sent."""
    for row in read_epochs(folder).to_dict("records"):
        epoch = int(row.pop("epoch"))
        tracker.epoch({str(name): float(value) for name, value in row.items()}, epoch)


def start(tracker: Tracker, folder: Path) -> None:
    """Settings, data and weights that the run starts from; also after a resume, which may change settings."""
    record = read_record(folder) if (folder / RECORD).is_file() else {}
    if (folder / CONFIG).is_file():
        config = read_yaml(folder / CONFIG)
        config.pop("sweep", None)
        given = {override_key(line) for line in record.get("overrides", ())}
        params = record.get("choices", {}) | flatten(config)
        named = {key for key in params if key.endswith(f".{TARGET}") and key not in given}  # the choice names its class
        tracker.params({key: value for key, value in params.items() if key not in named})
    tags = {"lungtl.kind": "run", FOLDER: str(folder)}
    if record:
        tracker.dataset(record["store"], record["store_fingerprint"], "training")
        origin = (key for key in record if "fingerprint" in key or key in ("store", "weights_source", "weights_sha256"))
        tags |= record["choices"] | {f"lungtl.{key}": str(record[key]) for key in origin if record[key]}
    tracker.tags(tags)
    files(tracker, folder, SPLIT, CONFIG, ENVIRONMENT)


def results(tracker: Tracker, folder: Path) -> None:
    """The scores and files of a run that finished; nothing of one that did not."""
    if not (folder / METRICS).is_file():
        return
    document = read_json(folder / METRICS)
    training = document["training"]
    numbers = {key: training[key] for key in ("trainable_parameters", "epochs", "best_epoch")}
    if training["val_auroc"] is not None:
        numbers["best_val_auroc"] = training["val_auroc"]
    tracker.metrics(main_metrics(document) | numbers)
    cards = (folder / BUNDLE / CARD, folder / BUNDLE / "README.md")  # the latter of older bundles
    card = next(filter(Path.is_file, cards), None)
    _describe(tracker, document, "" if card is None else card.read_text(encoding="utf-8"))
    files(tracker, folder, METRICS, SUMMARY, LOG, CALIBRATION, VALIDATION, PREDICTIONS, SLICES, FIGURES, BUNDLE,
          CHECKPOINTS)  # fmt: skip


def evaluation(tracker: Tracker, folder: Path) -> None:
    """An evaluation is a run of its own, which names the run of its model; nothing of one that did not finish."""
    if not (folder / METRICS).is_file():
        return
    document = read_json(folder / METRICS)
    config = read_yaml(folder / ".hydra" / CONFIG)
    tracker.tags({
        "lungtl.kind": "evaluation", FOLDER: str(folder), "lungtl.model": document["model"],
        "lungtl.store": document["store_name"], "lungtl.store_fingerprint": document["store_fingerprint"],
    })  # fmt: skip
    tracker.dataset(document["store_name"], document["store_fingerprint"], "evaluation")
    tracker.params({"model": document["model"], **{key: config[key] for key in ("split", "threshold", "resamples")}})
    tracker.metrics(main_metrics(document))
    _describe(tracker, document, "\n".join(f"- {line.strip()}" for line in headlines(document)))
    files(tracker, folder, METRICS, SUMMARY, PREDICTIONS, SLICES, FIGURES)


def _describe(tracker: Tracker, document: dict[str, Any], text: str) -> None:
    """Send the AUROC with its interval, and the description, which it begins: not before a bracket, as a link is."""
    auroc = format_estimate(document["bag"]["metrics"]["auroc"])
    tracker.tags({"lungtl.auroc": auroc})
    tracker.describe(f"AUROC {auroc}, split {document['split']}", text)


def files(tracker: Tracker, folder: Path, *names: str) -> None:
    """Files go to the top, a folder's files into a folder of its name; what is missing is skipped.

    Raises:
        LungtlError: one is a link to something outside the folder.
    """
    for name in names:
        if (path := folder / name).exists():
            for part in (path, *(path.rglob("*") if path.is_dir() else ())):
                if not part.resolve().is_relative_to(folder.resolve()):
                    raise LungtlError(f"{part} is a link out of the run's folder and is not sent; remove it")
            tracker.artifacts(path, name if path.is_dir() else None)
