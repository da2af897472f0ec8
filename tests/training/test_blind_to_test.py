"""Nothing of the test patients decides what a run keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pytest
import torch
from torch import Tensor

from lungtl.data.store.reader import Store
from lungtl.models.freezing.full import Full
from lungtl.training.checkpoints import BEST, CHECKPOINTS
from lungtl.training.datamodule import BagDataModule
from lungtl.training.fit import fit, seed_everything
from lungtl.training.losses import BagAndSliceLoss
from lungtl.training.module import BagModule
from tests.models.tiny import tiny_classifier
from tests.stores import toy_store
from tests.training.test_fit import config_of


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return toy_store(tmp_path_factory.mktemp("data"), [2] * 14)


def best(store: Store, folder: Path, flipped: str, monitor: Literal["val/loss", "val/auroc"]) -> dict[str, Tensor]:
    """The best checkpoint of a tiny run, the labels of one side of its split turned round."""
    split: pd.DataFrame = store.bags[["bag_id", "patient_id"]].assign(label=store.bags["bag_label"].astype(int))
    split["split"] = ["train"] * 6 + ["val"] * 4 + ["test"] * 4
    split["label"] = split["label"].where(split["split"] != flipped, 1 - split["label"])
    config = config_of(folder, monitor=monitor)
    seed_everything(0)
    module = BagModule(
        tiny_classifier(), Full(), BagAndSliceLoss(), config.optimizer, config.schedule, config.trainer.max_epochs
    )
    data = BagDataModule(store, split, config, None, backbone_trains=True)
    fit(module, data, config.trainer, folder, lambda *_: None, resume=False)
    kept: dict[str, Any] = torch.load(folder / CHECKPOINTS / BEST, weights_only=True)
    tensors: dict[str, Tensor] = {"epoch": torch.tensor(kept["epoch"]), "value": torch.tensor(kept["best"]["value"])}
    weights: dict[str, Tensor] = kept["state_dict"]
    return tensors | weights


@pytest.mark.parametrize("monitor", ["val/loss", "val/auroc"])
def test_test_labels_choose_no_epoch(store: Store, tmp_path: Path, monitor: Literal["val/loss", "val/auroc"]) -> None:
    right, turned, val = (best(store, tmp_path / side, side, monitor) for side in ("none", "test", "val"))
    assert right.keys() == turned.keys()
    assert all(torch.equal(value, turned[key]) for key, value in right.items())
    assert not torch.equal(right["value"], val["value"])  # while validation labels do decide
