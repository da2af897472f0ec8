from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lungtl.settings.composing import conf_dir
from lungtl.settings.errors import UsageError
from lungtl.settings.resuming import check_settings

OWN = ["aggregator=attention", "optimizer.lr=1e-3", "+head.x=1"]


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the config of OWN."""
    folder = tmp_path_factory.mktemp("run")
    (folder / ".hydra").mkdir()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        OmegaConf.save(compose("train", OWN), folder / ".hydra" / "config.yaml")
    return folder


@pytest.mark.parametrize(
    "change",
    ["trainer.max_epochs=9", "trainer.patience=null", "trainer.devices=2", "trainer.accelerator=cpu", "workers=1",
     "trainer.workers=1", "tracking=none", "data_dir=/elsewhere", "resume=x", "name=x", "backbone.weights=/moved"],
)  # fmt: skip
def test_what_may_change(earlier: Path, change: str) -> None:
    check_settings(earlier, [*OWN, change])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("optimizer.lr=2e-3", "optimizer.lr was 0.001, now it is 0.002"),
        ("loss.slice_weight=0.25", "loss.slice_weight was 0.5, now it is 0.25"),
        ("image.augment=dihedral", "image.augment was none, now it is dihedral"),
        ("head.dropout=0", "head.dropout was 0.5, now it is 0"),
        ("aggregator=max", "aggregator._target_ was .*Attention, now it is .*Max"),
        ("freezing=full", "freezing._target_ was .*Frozen, now it is .*Full"),
        ("backbone=resnet18", "backbone.name was .*lite0.*, now it is resnet18.a1_in1k"),
        ("split.seed=1", "split.seed was 0, now it is 1"),
        ("seed=1", "seed was 0, now it is 1"),
        ("trainer.monitor=val/auroc", "trainer.monitor was val/loss, now it is val/auroc"),
        ("trainer.batch_size=4", "trainer.batch_size was 8, now it is 4"),
        ("trainer.precision=bf16-mixed", "trainer.precision was 32-true, now it is bf16-mixed"),
        ("trainer.ema=0.9", "trainer.ema was None, now it is 0.9"),
    ],
)
def test_what_may_not(earlier: Path, change: str, told: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot resume: {told}; leave it out or start a new run$") as error:
        check_settings(earlier, [*OWN, change])
    assert "\n" not in str(error.value)


def test_an_option_that_is_not_there_any_more_has_changed(earlier: Path) -> None:
    with pytest.raises(UsageError, match=r"head\.x was 1, now it is not set"):
        check_settings(earlier, OWN[:-1])
