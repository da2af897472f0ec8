from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pytorch_lightning.callbacks import Callback
from sklearn.metrics import roc_auc_score
from torch import Tensor

from lungtl.data.store.reader import Store
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.models.bag_classifier import BagClassifier
from lungtl.models.freezing.base import FreezingStrategy
from lungtl.models.freezing.bitfit import BitFit
from lungtl.models.freezing.frozen import Frozen
from lungtl.models.freezing.full import Full
from lungtl.models.freezing.last_blocks import LastBlocks
from lungtl.settings import parts
from lungtl.settings.errors import LungtlError
from lungtl.settings.folders import conf_dir
from lungtl.settings.schema import TrainConfig
from lungtl.training.build import build_classifier
from lungtl.training.datamodule import BagDataModule
from lungtl.training.feature_cache import PROBE_SLICES, cached_features
from lungtl.training.fit import explain_single_values, fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from lungtl.training.plan import trainable_share
from tests.models.tiny import noise_frames, tiny_classifier
from tests.stores import toy_store

LENGTHS = (2, 3, 1, 4, 2, 3, 3, 2, 4, 1, 2, 3)
CPU = torch.device("cpu")


class Crash(Exception):
    pass


class Epochs:
    """What a tracker is handed; crashes at the end of one epoch."""

    def __init__(self, crash_at: int | None = None) -> None:
        self.seen: dict[int, dict[str, float]] = {}
        self.crash_at = crash_at

    def __call__(self, metrics: dict[str, float], epoch: int) -> None:
        if epoch == self.crash_at:
            raise Crash
        self.seen[epoch] = metrics


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), LENGTHS)


def split_of(store: Store) -> pd.DataFrame:
    table = store.bags[["bag_id", "patient_id"]].assign(label=store.bags["bag_label"].astype(int))
    return table.assign(split=["train"] * 8 + ["val"] * 4)


@cache
def conf(name: str) -> dict[str, Any]:
    """A file of conf/, for nobody to change."""
    content: dict[str, Any] = yaml.safe_load((conf_dir() / f"{name}.yaml").read_text())
    return content


def config_of(folder: Path, train_slices: int | None = 2, augment: str = "none", **trainer: Any) -> TrainConfig:
    """The settings as they ship, but for a tiny network."""
    root, trained = conf("train"), conf("trainer/default")
    quick = {"max_epochs": 4, "batch_size": 3, "patience": None, "accelerator": "cpu"}
    models = "lungtl.models"
    return TrainConfig.model_validate({
        **{key: value for key, value in root.items() if key not in ("defaults", "hydra")},
        "data_dir": folder, "workers": 1,
        "dataset": {parts.TARGET: "lungtl.sources.phantom.source.PhantomSource", "root": "x"},
        "backbone": {parts.TARGET: f"{models}.backbones.timm_backbone.TimmBackbone", "name": "test_resnet"},
        "freezing": {parts.TARGET: f"{models}.freezing.frozen.Frozen"},
        "aggregator": {parts.TARGET: f"{models}.aggregators.attention.Attention"},
        "loss": {parts.TARGET: "lungtl.training.losses.BagAndSliceLoss"},
        "image": {**root["image"], "size": 32, "augment": augment, "train_slices": train_slices},
        "head": {**root["head"], "width": 16, "dropout": 0.1},
        "trainer": {**trained, **quick, **trainer},
        "optimizer": {**conf("optimizer/adamw"), "lr": 1e-2},
        "schedule": conf("schedule/cosine"),
        "tracking": conf("tracking/none"),
        "evaluation": {**root["evaluation"], "figures": False, "resamples": 100},
    })  # fmt: skip


def train(
    store: Store,
    folder: Path,
    freezing: FreezingStrategy,
    epochs: Epochs | None = None,
    resume: bool = False,
    cache: Path | None = None,
    augment: bool = False,
    classifier: BagClassifier | None = None,
    kind: type[BagModule] = BagModule,
    optimizer: dict[str, Any] | None = None,
    schedule: dict[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    **trainer: Any,
) -> tuple[BagModule, dict[str, Any]]:
    """What `lungtl.train` does with a store, on the tiny network."""
    config = config_of(folder, augment="dihedral" if augment else "none", **trainer)
    seed_everything(0)
    classifier = classifier or tiny_classifier()
    features = cached_features(classifier, store, cache, CPU, "w") if cache else None
    optimisation = (optimizer or config.optimizer, schedule or config.schedule)
    module = kind(classifier, freezing, BagAndSliceLoss(), *optimisation, config.trainer.max_epochs)
    data = BagDataModule(store, split_of(store), config, features, not freezing.is_frozen(classifier.backbone))
    return module, fit(module, data, config.trainer, folder, epochs or Epochs(), resume, callbacks)


def last_state(folder: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    return state


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    return {key for key in before if not torch.equal(before[key], after[key])}


def slices_seen(batches: Iterable[Any]) -> dict[str, int]:
    return {i: len(own) for batch in batches for i, own in zip(batch.bag_ids, batch.positions, strict=True)}


def test_a_step_samples_slices_and_validation_uses_all(store: Store, tmp_path: Path) -> None:
    data = BagDataModule(store, split_of(store), config_of(tmp_path, train_slices=2), None, backbone_trains=True)
    assert slices_seen(data.train_dataloader()) == {f"b{i:02d}": min(2, n) for i, n in enumerate(LENGTHS[:8])}
    assert slices_seen(data.val_dataloader()) == {f"b{i:02d}": LENGTHS[i] for i in range(8, 12)}


def test_a_frozen_backbone_sees_all_slices_with_or_without_the_cache(store: Store, tmp_path: Path) -> None:
    data = BagDataModule(store, split_of(store), config_of(tmp_path, train_slices=2), None, backbone_trains=False)
    assert slices_seen(data.train_dataloader()) == {f"b{i:02d}": n for i, n in enumerate(LENGTHS[:8])}


@pytest.mark.parametrize(("name", "size", "dim"), [("test_resnet", "auto", 96), ("vit_tiny_patch16_224", 64, 192)])
def test_a_network_is_built_from_its_config(tmp_path: Path, name: str, size: str | int, dim: int) -> None:
    config = config_of(tmp_path)
    backbone = {**config.backbone, "name": name, "weights": "none"}
    image = config.image.model_copy(update={"size": size})
    classifier = build_classifier(config.model_copy(update={"backbone": backbone, "image": image}), (0, 255))
    assert classifier.preprocessor.size == (160 if size == "auto" else size)
    assert classifier.preprocessor.windows == [(127.5, 255)]
    with torch.no_grad():
        assert classifier.embed(noise_frames(2)).shape == (2, dim)

    head, total = trainable_share(classifier, Frozen(), 1)
    inside = sum(p.numel() for p in classifier.backbone.parameters())
    assert (head, total) == (total - inside, sum(p.numel() for p in classifier.parameters()))
    assert trainable_share(classifier, Full(), 1) == (total, total)


@pytest.mark.parametrize("freezing", [Frozen(), Full()], ids=["frozen", "full"])
def test_the_same_seed_trains_the_same_network(store: Store, tmp_path: Path, freezing: FreezingStrategy) -> None:
    logs = [Epochs(), Epochs()]
    states = [
        train(store, tmp_path / str(i), freezing, log, augment=True, max_epochs=2)[0].state_dict()
        for i, log in enumerate(logs)
    ]
    assert changed(*states) == set()
    assert logs[0].seen == logs[1].seen


def test_only_batch_norm_statistics_of_unfrozen_blocks_change(store: Store, tmp_path: Path) -> None:
    before = tiny_classifier().state_dict()
    module, _ = train(store, tmp_path, LastBlocks(1), max_epochs=2)
    after = module.classifier.state_dict()
    moved = {key for key in changed(before, after) if key.startswith("backbone.")}
    assert moved == {key for key in before if key.startswith("backbone.net.layer4.")}
    assert "backbone.net.layer4.0.bn1.running_mean" in moved


@pytest.mark.parametrize("freezing", [Frozen(), LastBlocks(1), BitFit(), Full()], ids=lambda f: type(f).__name__)
def test_a_checkpoint_contains_only_what_training_changes(
    store: Store, tmp_path: Path, freezing: FreezingStrategy
) -> None:
    before = tiny_classifier().state_dict()
    module, _ = train(store, tmp_path, freezing, max_epochs=2)
    kept = {key.removeprefix("classifier.") for key in last_state(tmp_path)["state_dict"]}
    assert changed(before, module.classifier.state_dict()) <= kept
    held = {key for key in kept if key.startswith("backbone.")}
    assert (held == set()) == isinstance(freezing, Frozen)
    assert (held == {key for key in before if key.startswith("backbone.")}) == isinstance(freezing, Full)


def test_a_frozen_backbone_without_a_cache_stays_as_it_was(store: Store, tmp_path: Path) -> None:
    before = tiny_classifier().backbone.state_dict()
    module, _ = train(store, tmp_path, Frozen(), augment=True, max_epochs=2)
    assert changed(before, module.classifier.backbone.state_dict()) == set()


def test_epochs_on_cached_features_do_not_run_the_backbone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_features(tiny_classifier(), store, tmp_path, CPU, "w")
    counts: list[int] = []
    forward = TimmBackbone.forward

    def count(backbone: TimmBackbone, images: Tensor) -> Tensor:
        counts.append(len(images))
        return forward(backbone, images)

    monkeypatch.setattr(TimmBackbone, "forward", count)
    module, result = train(store, tmp_path, Frozen(), cache=tmp_path, max_epochs=3)
    assert result["epochs"] == 3
    assert sum(counts) == 3 + PROBE_SLICES  # before training, by the feature cache
    assert "classifier.slice_head.weight" in changed(
        {f"classifier.{key}": value for key, value in tiny_classifier().state_dict().items()}, module.state_dict()
    )


def test_the_cache_changes_no_result(store: Store, tmp_path: Path) -> None:
    logs = [Epochs(), Epochs()]
    train(store, tmp_path / "without", Frozen(), logs[0], max_epochs=2, train_slices=None)
    train(store, tmp_path / "with", Frozen(), logs[1], cache=tmp_path, max_epochs=2)
    for epoch in (1, 2):
        assert logs[1].seen[epoch]["val/loss"] == pytest.approx(logs[0].seen[epoch]["val/loss"], abs=1e-5)


@pytest.mark.parametrize(("monitor", "best"), [("val/loss", min), ("val/auroc", max)])
def test_the_weights_of_the_best_epoch_are_loaded(store: Store, tmp_path: Path, monitor: str, best: Any) -> None:
    epochs = Epochs()
    module, result = train(store, tmp_path, Frozen(), epochs, max_epochs=5, monitor=monitor)
    values = [epochs.seen[epoch][monitor] for epoch in range(1, 6)]
    assert result[monitor] == pytest.approx(best(values), abs=1e-7)
    assert result["best_epoch"] == values.index(best(values)) + 1
    data = BagDataModule(store, split_of(store), config_of(tmp_path), None, backbone_trains=False)
    module.eval()
    outputs = [(module(batch).bag_logits.detach(), batch.bag_labels) for batch in data.val_dataloader()]
    logits, labels = (torch.cat(parts) for parts in zip(*outputs, strict=True))
    assert roc_auc_score(labels, logits) == pytest.approx(epochs.seen[result["best_epoch"]]["val/auroc"])


def test_training_stops_early(store: Store, tmp_path: Path) -> None:
    _, result = train(store, tmp_path, Frozen(), max_epochs=30, patience=2, monitor="val/auroc")
    assert result["epochs"] == result["best_epoch"] + 2 < 30


def test_every_epoch_is_logged_with_its_learning_rate(store: Store, tmp_path: Path) -> None:
    epochs = Epochs()
    train(store, tmp_path, Full(lr_scale=0.5), epochs)
    # one epoch of warm-up at half, then a half cosine over the other three: 1, 3/4, 1/4
    assert [epochs.seen[e]["lr"] for e in range(1, 5)] == pytest.approx([0.005, 0.01, 0.0075, 0.0025])
    assert {"train/loss", "val/loss", "val/auroc"} <= epochs.seen[1].keys()


@pytest.mark.parametrize("monitor", ["val/loss", "val/auroc"])
@pytest.mark.parametrize("patience", [None, 2])
def test_training_that_diverges_at_once_is_an_error(
    store: Store, tmp_path: Path, monitor: str, patience: int | None
) -> None:
    classifier = tiny_classifier()
    torch.nn.init.constant_(classifier.slice_head.weight, float("nan"))
    torch.nn.init.constant_(classifier.aggregator.classifier.weight, float("nan"))  # type: ignore[union-attr, arg-type]
    with pytest.raises(LungtlError, match=rf"{monitor} was never finite\); lower optimizer\.lr"):
        train(store, tmp_path, Frozen(), classifier=classifier, max_epochs=2, monitor=monitor, patience=patience)


def test_a_batch_norm_that_sees_one_value_is_one_line() -> None:
    norm = torch.nn.BatchNorm2d(2).train()
    problem = r"one slice is too few .* raise trainer.batch_size \(now 1\)"
    with pytest.raises(LungtlError, match=problem), explain_single_values(1):
        norm(torch.zeros(1, 2, 1, 1))
    with pytest.raises(ValueError, match="other"), explain_single_values(1):
        raise ValueError("other")
