"""`python -m lungtl.train`: compose an experiment, train it, evaluate it on held-out patients, track it."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lungtl.data.store.opening import open_store
from lungtl.runs.environment import write_environment
from lungtl.runs.folder import RECORD, SPLIT, read_record, write_record
from lungtl.runs.naming import differing_overrides, run_name, told
from lungtl.settings import command_line
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.schema import TrainConfig
from lungtl.sweeps import jobs
from lungtl.sweeps.search.names import PRUNED

if TYPE_CHECKING:
    import pandas as pd

    from lungtl.data.store.reader import Store
    from lungtl.tracking.tracker import Tracker

log = logging.getLogger(__name__)


def run(config: TrainConfig) -> float | None:
    """One run, in the folder that Hydra made for it; prints that folder. With `dry_run` prints what would train.

    Returns:
        The monitored validation metric of the best epoch; None of a dry run, and of a trial that was pruned.
    """
    if config.dry_run:
        from lungtl.training.plan import print_plan

        print_plan(config)
        return None
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    from lungtl.data.splits import save_split, split_bags

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if config.tracking.enabled:  # before hours of preparing
        from lungtl.tracking.backend import open_client

        open_client(config.tracking.uri, config.data_dir)
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
    swept = hydra.mode == RunMode.MULTIRUN
    goes_on = config.resume is not None or (swept and (folder / RECORD).is_file())
    if goes_on:
        from lungtl.training.checkpoints import check_checkpoint

        check_checkpoint(folder)
    earlier = read_record(folder) if goes_on else None
    differs = differing_overrides(folder.parent, hydra.overrides.task) if swept else []
    derived = " ".join(told(differs)) or run_name(choices, hydra.overrides.task)
    name = config.name or (earlier["name"] if earlier is not None else derived)
    tracker = _tracker(config, folder, name, earlier, swept)
    if swept:
        tracker.tags({"sweep": folder.parent.name})

    from lungtl.tracking.tracker import tracked

    with tracked(tracker):
        document = _train_and_evaluate(config, folder, store, split, tracker, earlier, name, choices)

    if document is None:
        print(folder)
        return None

    from lungtl.runs.summary import print_summary

    print_summary(document, folder, [] if swept else _next_steps(folder))
    print(folder)
    return float(document["training"][config.trainer.monitor])


def _tracker(config: TrainConfig, folder: Path, name: str, earlier: dict[str, Any] | None, swept: bool) -> Tracker:
    """The run's tracker; of the same MLflow run when it goes on."""
    from lungtl.sweeps.parent import parent_of
    from lungtl.tracking import publish
    from lungtl.tracking.mlflow_run import KEY, PARENT, find_or_create_run
    from lungtl.tracking.tracker import MlflowTracker, NoTracker

    if not config.tracking.enabled:
        return NoTracker()
    run_id = earlier["mlflow_run_id"] if earlier is not None else None
    parent = parent_of(folder.parent) if swept else None
    if run_id is None and parent is not None:
        tags = {PARENT: parent, KEY: folder.name}
        run_id = find_or_create_run(config.tracking, config.data_dir, name, tags)
    return MlflowTracker(config.tracking, config.data_dir, name, folder, publish.run, run_id)


def _train_and_evaluate(
    config: TrainConfig,
    folder: Path,
    store: Store,
    split: pd.DataFrame,
    tracker: Tracker,
    earlier: dict[str, Any] | None,
    name: str,
    choices: dict[str, str],
) -> dict[str, Any] | None:
    import torch
    from omegaconf import OmegaConf

    from lungtl.data.splits import split_fingerprint
    from lungtl.runs.after_training import TrainedRun, finish
    from lungtl.runs.epochs import append_epoch
    from lungtl.settings import parts
    from lungtl.sweeps.search.pruning import pruning
    from lungtl.tracking import publish
    from lungtl.training.build import build_classifier
    from lungtl.training.datamodule import BagDataModule
    from lungtl.training.devices import device_name, pick_device
    from lungtl.training.feature_cache import run_features
    from lungtl.training.fit import fit, seed_everything
    from lungtl.training.module import BagModule
    from lungtl.training.plan import trainable_share

    seed_everything(config.seed)
    classifier = build_classifier(config, store.value_range)
    freezing = parts.build(config.freezing)
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
        "choices": choices,
    }
    _check_same(earlier, record)
    check_weights_patients(str(config.backbone["weights"]), record["weights_split_fingerprint"], split)
    write_record(folder, record)
    (folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(config.model_dump(mode="json"))))
    freezing.adapt(classifier.backbone)
    trained, total = trainable_share(classifier, freezing, config.trainer.max_epochs)
    log.info(
        "%s (weights: %s), %s of %s parameters train", classifier.backbone.name, record["weights_source"],
        f"{trained:,}", f"{total:,}",
    )  # fmt: skip
    device = pick_device(config.trainer.accelerator)
    write_environment(folder, device_name(device))
    publish.start(tracker, folder)
    features = run_features(config, classifier, freezing, store, device, weights)
    loss = parts.build(config.loss)
    training = split[split["split"] == "train"]
    bag_labels = torch.tensor(training["label"].to_numpy())
    loss.count(
        bag_labels.unique() if config.trainer.sampler == "balanced" else bag_labels,  # drawn as often, none is rare
        torch.cat([torch.from_numpy(store.slice_labels(bag_id).astype("int64")) for bag_id in training["bag_id"]]),
    )
    module = BagModule(classifier, freezing, loss, config.optimizer, config.schedule, config.trainer.max_epochs)
    data = BagDataModule(store, split, config, features, backbone_trains=not freezing.is_frozen(classifier.backbone))

    def record_epoch(metrics: dict[str, float], epoch: int) -> None:
        append_epoch(folder, epoch, metrics)
        tracker.epoch(metrics, epoch)

    fitted = fit(
        module, data, config.trainer, folder, record_epoch, resume=earlier is not None,
        callbacks=pruning(folder, config.trainer.monitor),
    )  # fmt: skip
    took = {"seconds": module.seconds, "trainable_parameters": trained}
    log.info("trained %d epochs; the best is epoch %d", fitted["epochs"], fitted["best_epoch"])
    if (folder / PRUNED).is_file():  # the search has better ones: it is not scored
        tracker.tags({"lungtl.pruned": "true"})
        return None
    freezing.merge(classifier.backbone)
    if features is not None:
        classifier.cut(classifier.split.blocks)  # the merge may have exchanged modules

    run = TrainedRun(config, folder, store, split, classifier, features, loss, device, record, fitted | took, choices)
    document = finish(run)
    publish.results(tracker, folder)
    return document


def _check_same(earlier: dict[str, Any] | None, record: dict[str, Any]) -> None:
    """A resumed run must find the data, split and weights that it left."""
    for key in ("store_fingerprint", "split_fingerprint", "weights_fingerprint", "seed"):
        if earlier is not None and earlier[key] != record[key]:
            raise LungtlError(f"cannot resume: {key} was {earlier[key]}, now it is {record[key]}; start a new run")


def check_weights_patients(weights: str, fingerprint: str, split: pd.DataFrame) -> None:
    """Refuse weights of a run that this run's test patients trained, or whose epoch they chose.

    Args:
        weights: `backbone.weights`.
        fingerprint: of the split that the weights were trained with; "" for others than those of a run.
        split: bag_id, patient_id, split of this run.

    Raises:
        UsageError: they did. Where only the bundle is left and nobody can tell, another split is only a warning.
    """
    from lungtl.data.splits import read_split, split_fingerprint

    if fingerprint in ("", split_fingerprint(split)):
        return
    folder = Path(weights).expanduser()
    for path in (folder / SPLIT, folder.parent / SPLIT):  # of a run's folder, or of its bundle's
        earlier = read_split(path) if path.is_file() else None
        if earlier is None or split_fingerprint(earlier) != fingerprint:
            continue
        tested = set(split.loc[split["split"] == "test", "patient_id"])
        seen = tested & set(earlier.loc[earlier["split"].isin(["train", "val"]), "patient_id"])
        if seen:
            raise UsageError(
                f"backbone.weights={weights}: {len(seen)} of this run's {len(tested)} test patients trained these "
                "weights or chose their epoch; give this run the dataset and split of that one, or other weights"
            )
        return
    log.warning(
        "backbone.weights is of a run with another split, which may have trained on this run's test patients; "
        "use the same dataset and split"
    )


def _next_steps(folder: Path) -> list[str]:
    return [
        "next: make ui     compare runs in MLflow (or python -m lungtl.ui)",
        "      make sweep  compare the aggregators: python -m lungtl.train -m aggregator=mean,max,attention",
        f"      python -m lungtl.evaluate model={folder} dataset=...",
    ]


if __name__ == "__main__":
    command_line.main("train", TrainConfig, run, jobs=jobs)
