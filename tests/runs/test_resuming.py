from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.runs.experiment import write_config
from lungtl.runs.folder import write_record
from lungtl.runs.resuming import check_settings, resumed_command_line
from lungtl.settings.composing import conf_dir, validate
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig

OWN = ["aggregator=attention", "optimizer.lr=1e-3", "aggregator.hidden=64"]


def composed(*overrides: str) -> TrainConfig:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validate(TrainConfig, compose("train", list(overrides)))


def plain(*overrides: str) -> dict[str, Any]:
    return composed(*overrides).model_dump(mode="json")


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the config of OWN."""
    folder = tmp_path_factory.mktemp("run")
    write_config(composed(*OWN), folder)
    write_record(folder, {"overrides": [*OWN, "seed=3"]})
    return folder


@pytest.mark.parametrize(
    "change",
    ["trainer.max_epochs=9", "trainer.patience=null", "trainer.devices=2", "trainer.accelerator=cpu", "workers=1",
     "trainer.workers=1", "tracking=none", "data_dir=/elsewhere", "resume=x", "name=x", "backbone.weights=/moved"],
)  # fmt: skip
def test_settings_that_may_change(earlier: Path, change: str) -> None:
    check_settings(earlier, plain(*OWN, change))


@pytest.mark.parametrize(
    ("change", "key", "was", "now"),
    [
        ("optimizer.lr=2e-3", "optimizer.lr", "0.001", "0.002"),
        ("loss.slice_weight=0.25", "loss.slice_weight", "0.5", "0.25"),
        ("image.augment=dihedral", "image.augment", "none", "dihedral"),
        ("head.dropout=0", "head.dropout", "0.5", "0"),
        ("freezing=full", "freezing._target_", "Frozen", "Full"),
        ("backbone=resnet18", "backbone.name", "lite0", "resnet18.a1_in1k"),
        ("split.seed=1", "split.seed", "0", "1"),
        ("seed=1", "seed", "0", "1"),
        ("trainer.monitor=val/auroc", "trainer.monitor", "val/loss", "val/auroc"),
        ("trainer.batch_size=4", "trainer.batch_size", "8", "4"),
        ("trainer.precision=bf16-mixed", "trainer.precision", "32-true", "bf16-mixed"),
        ("trainer.ema=0.9", "trainer.ema", "None", "0.9"),
    ],
)
def test_settings_that_decide_the_result_may_not_change(
    earlier: Path, change: str, key: str, was: str, now: str
) -> None:
    with pytest.raises(UsageError) as error:
        check_settings(earlier, plain(*OWN, change))
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith(f"cannot resume: {key} was ")
    assert was in message.partition(", now it is ")[0]
    assert now in message.partition(", now it is ")[2]


def test_an_option_that_no_longer_exists_has_changed(earlier: Path) -> None:
    config = plain(*OWN)
    del config["aggregator"]["hidden"]
    with pytest.raises(UsageError, match=r"aggregator\.hidden was 64, now it is not set"):
        check_settings(earlier, config)


def test_a_resumed_command_line_is_the_runs_own_with_new_overrides(earlier: Path) -> None:
    arguments = [f"resume={earlier}", "seed=4"]
    assert resumed_command_line(arguments) == [*OWN, *arguments, f"hydra.run.dir='{earlier}'"]


def test_without_resume_a_command_line_stays(tmp_path: Path) -> None:
    assert resumed_command_line(["seed=1", "-m", "resume=null"]) == ["seed=1", "-m", "resume=null"]


def test_a_sweep_is_not_resumed_run_by_run(earlier: Path) -> None:
    with pytest.raises(UsageError, match="omit -m"):
        resumed_command_line(["-m", f"resume={earlier}"])


def test_a_folder_with_a_quote_in_its_name_is_resumed(tmp_path: Path) -> None:
    folder = tmp_path / "it's"
    folder.mkdir()
    write_record(folder, {"overrides": []})
    (line,) = [one for one in resumed_command_line([f'resume="{folder}"']) if one.startswith("hydra.run.dir")]
    (parsed,) = OverridesParser.create().parse_overrides([line])
    assert str(parsed.value()) == str(folder)


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, {"name": "old"})
    with pytest.raises(UsageError, match="earlier version"):
        resumed_command_line([f"resume={tmp_path}"])
