"""`python -m lungtl.train`: compose an experiment, train it, evaluate it on held-out patients, track it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl import cli
from lungtl.config import TrainConfig
from lungtl.errors import LungtlError
from lungtl.prepare import open_store
from lungtl.runs import BUNDLE, SPLIT, read_record, write_record

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.store.reader import Store
    from lungtl.tracking.tracker import Tracker

log = logging.getLogger(__name__)
PLACES = ("data_dir", ".root", ".table", ".images", "tracking", "tracking.uri", "workers", "resume")


def run(config: TrainConfig) -> None:
    """One run, in the folder that Hydra made for it; prints that folder. With `dry_run` prints what would train."""
    if config.dry_run:
        from lungtl.training.plan import print_plan

        print_plan(config)
        return
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lungtl.data.splits import save_split, split_bags

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    store = open_store(config)
    split = split_bags(store.bags, config.split)
    save_split(split, folder / SPLIT)
    counts = split.groupby("split")["label"].agg(["size", "sum"])
    log.info(
        "split: %s", ", ".join(f"{n} {counts['size'][n]} bags ({counts['sum'][n]} positive)" for n in counts.index)
    )
    choices = {
        key: str(hydra.runtime.choices[key]) for key in ("dataset", "backbone", "freezing", "aggregator", "loss")
    }
    name = config.name or run_name(choices, hydra.overrides.task)
    if config.resume is not None:
        from lungtl.training.fit import check_checkpoint

        check_checkpoint(folder)
    tracker, earlier = _tracker(config, folder, name, Path(hydra.sweep.dir) if hydra.mode == RunMode.MULTIRUN else None)

    from lungtl.tracking.tracker import tracked

    with tracked(tracker):
        document = _train_and_evaluate(config, folder, store, split, tracker, earlier, name, choices)

    from lungtl.results import print_summary

    print_summary(document, folder, [] if hydra.mode == RunMode.MULTIRUN else _next_steps(folder))
    print(folder)


def _tracker(config: TrainConfig, folder: Path, name: str, sweep: Path | None) -> tuple[Tracker, dict[str, Any] | None]:
    """The run's tracker, and the earlier record when it is resumed."""
    from lungtl.tracking.sweep import parent_of
    from lungtl.tracking.tracker import MlflowTracker, NoTracker

    earlier = read_record(folder) if config.resume is not None else None
    if not config.tracking.enabled:
        return NoTracker(), earlier
    parent = parent_of(sweep) if sweep is not None else None
    run_id = earlier["mlflow_run_id"] if earlier else None
    return MlflowTracker(config.tracking, config.data_dir, name, parent, run_id), earlier


def _train_and_evaluate(
    config: TrainConfig,
    folder: Path,
    store: Store,
    split: pd.DataFrame,
    tracker: Tracker,
    earlier: dict[str, Any] | None,
    name: str,
    choices: dict[str, str],
) -> dict[str, Any]:
    import torch

    from lungtl import plugins
    from lungtl.bundle import model_card, save_bundle
    from lungtl.data.splits import split_fingerprint
    from lungtl.evaluation.schema import flat_metrics, rows_for_table
    from lungtl.results import write_results
    from lungtl.sources.lidc_labels import describe_labels
    from lungtl.training.build import build_classifier, trainable_share
    from lungtl.training.datamodule import BagDataModule
    from lungtl.training.feature_cache import run_features
    from lungtl.training.fit import fit, seed_everything
    from lungtl.training.inference import pick_device, predict_bags
    from lungtl.training.module import BagModule

    seed_everything(config.seed)
    classifier = build_classifier(config, store.value_range)
    freezing = plugins.build(config.freezing)
    weights = classifier.backbone.fingerprint()
    record = {
        "name": name,
        "mlflow_run_id": tracker.run_id or (earlier or {}).get("mlflow_run_id"),
        "store": store.name,
        "value_range": store.manifest["value_range"],
        "crop": store.manifest["recipe"].get("crop", "none"),
        "store_fingerprint": store.fingerprint,
        "split_fingerprint": split_fingerprint(split),
        "weights_fingerprint": weights,
        **{f"weights_{key}": value for key, value in asdict(classifier.backbone.loaded_weights).items()},
        "seed": config.seed,
    }
    _check_same(earlier, record)
    if record["weights_split_fingerprint"] not in ("", record["split_fingerprint"]):
        log.warning(
            "backbone.weights is of a run with another split, which may have trained on this run's test patients; "
            "use the same dataset and split"
        )
    write_record(folder, record)
    freezing.adapt(classifier.backbone)
    trained, total = trainable_share(classifier, freezing)
    log.info(
        "%s (weights: %s), %s of %s parameters train", classifier.backbone.name, record["weights_source"],
        f"{trained:,}", f"{total:,}",
    )  # fmt: skip
    if earlier is None or earlier["mlflow_run_id"] is None:
        tracker.params(flatten(config.model_dump(mode="json")))
        tracker.tags({**choices, "lungtl.kind": "run", "lungtl.folder": str(folder), **{
            f"lungtl.{key}": str(value) for key, value in record.items()
            if "fingerprint" in key or key in ("store", "weights_source")
        }})  # fmt: skip
        tracker.artifacts(folder / SPLIT)
    tracker.artifacts(folder / ".hydra" / "config.yaml")  # a resumed run may have other settings

    device = pick_device(config.trainer.accelerator)
    features = run_features(config, classifier, freezing, store, device, weights)
    loss = plugins.build(config.loss)
    training = split[split["split"] == "train"]
    loss.count(
        torch.tensor(training["label"].to_numpy()),
        torch.cat([torch.from_numpy(store.slice_labels(bag_id).astype("int64")) for bag_id in training["bag_id"]]),
    )
    module = BagModule(classifier, freezing, loss, config.optimizer, config.trainer.max_epochs)
    data = BagDataModule(store, split, config, features, backbone_trains=not freezing.is_frozen(classifier.backbone))
    fitted = fit(module, data, config.trainer, folder, tracker.metrics, resume=config.resume is not None)
    log.info("trained %d epochs; the best is epoch %d", fitted["epochs"], fitted["best_epoch"])
    freezing.merge(classifier.backbone)
    if features is not None:
        classifier.cut(classifier.split.blocks)  # the merge may have exchanged modules

    test = split[split["split"] == "test"]
    predictions = predict_bags(classifier, store, list(test["bag_id"]), features, device, config.trainer.batch_size)
    window = classifier.preprocessor.windows[0]
    document = write_results(folder, store, predictions, test, training, "test", window, run=record, training=fitted)
    labels = describe_labels(store.manifest["recipe"])
    settings = choices | {"labels": labels} | {key: str(value) for key, value in record.items()}
    card = model_card(name, settings, rows_for_table(document))
    save_bundle(classifier, config.aggregator, folder / BUNDLE, record, card)
    tracker.metrics(flat_metrics(document) | {"trainable_parameters": trained, "epochs": fitted["epochs"]})
    for path in ("metrics.json", "predictions.csv", "slices.csv"):
        tracker.artifacts(folder / path)
    for path in ("figures", BUNDLE, "checkpoints"):
        tracker.artifacts(folder / path, path)
    return document


def _check_same(earlier: dict[str, Any] | None, record: dict[str, Any]) -> None:
    """A resumed run must find the data, split and weights that it left."""
    for key in ("store_fingerprint", "split_fingerprint", "weights_fingerprint", "seed"):
        if earlier is not None and earlier[key] != record[key]:
            raise LungtlError(f"cannot resume: {key} was {earlier[key]}, now it is {record[key]}; start a new run")


def run_name(choices: Mapping[str, str], overrides: Iterable[str]) -> str:
    """The four choices, then what else was overridden, less what only says where things are."""
    parts = [choices[group] for group in ("dataset", "backbone", "freezing", "aggregator")]
    for override in overrides:
        key, _, value = override.partition("=")
        if key.lstrip("+~") not in choices and not key.endswith(PLACES):
            parts.append(f"{key}={Path(value).name}" if "/" in value else override)  # of a file, its name
    return " ".join(parts)


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping as dotted keys."""
    flat: dict[str, Any] = {}
    for key, child in value.items():
        flat |= flatten(child, f"{prefix}{key}.") if isinstance(child, dict) else {f"{prefix}{key}": child}
    return flat


def _next_steps(folder: Path) -> list[str]:
    return [
        "next: make ui     compare runs in MLflow (or python -m lungtl.ui)",
        "      make sweep  compare the aggregators: python -m lungtl.train -m aggregator=mean,max,attention",
        f"      python -m lungtl.evaluate model={folder} dataset=...",
    ]


if __name__ == "__main__":
    cli.main("train", TrainConfig, run)
