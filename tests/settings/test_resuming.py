from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lungtl.settings.composing import conf_dir
from lungtl.settings.errors import UsageError
from lungtl.settings.resuming import check_settings, check_unchanged

OWN = ["aggregator=attention", "head.dropout=0.5", "+head.x=1"]


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
     "trainer.workers=1", "tracking=none", "data_dir=/elsewhere", "resume=x", "name=x", "backbone.weights=/moved",
     "dataset.root=/moved", "evaluation.resamples=10"],
)  # fmt: skip
def test_what_may_change(earlier: Path, change: str) -> None:
    check_settings(earlier, [*OWN, change])


@pytest.mark.parametrize(
    ("change", "key", "was", "now"),
    [
        ("aggregator=max", "aggregator._target_", ".*Attention", ".*Max"),
        ("backbone=resnet18", "backbone.name", ".*lite0.*", "resnet18.a1_in1k"),
        ("dataset.scans=7", "dataset.scans", "160", "7"),
        ("seed=1", "seed", "0", "1"),
        ("trainer.ema=0.9", "trainer.ema", "None", "0.9"),
    ],
)
def test_what_may_not(earlier: Path, change: str, key: str, was: str, now: str) -> None:
    with pytest.raises(UsageError, match=f"^cannot resume: {key} was {was}, now it is {now}; omit it") as error:
        check_settings(earlier, [*OWN, change])
    assert "\n" not in str(error.value)


def test_an_option_that_no_longer_exists_has_changed() -> None:
    with pytest.raises(UsageError, match=r"head\.x was 1, now it is not set"):
        check_unchanged({"head": {"x": 1}}, {"head": {}})
