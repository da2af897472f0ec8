from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser

from lungtl.runs.experiment import write_config
from lungtl.runs.folder import CONFIG, read_record, read_yaml, write_record
from lungtl.runs.reproduction import repeated_config
from lungtl.runs.resuming import check_settings, check_trusted, own_overrides, resumed_command_line
from lungtl.settings.checks import validate
from lungtl.settings.composing import compose_config
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.folders import conf_dir
from lungtl.settings.keys import flatten, override_key
from lungtl.settings.schema import TrainConfig
from lungtl.settings.text import quoted

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


def own(folder: Path, *overrides: str) -> Path:
    """A run's folder as `train` leaves it; returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    config = compose_config("train", TrainConfig, list(overrides))
    write_config(config, folder)
    write_record(folder, {"overrides": config.overrides, "choices": config.choices, "name": "x", "mlflow_run_id": None})
    return folder


def resumed(folder: Path, *new: str) -> TrainConfig:
    """The config of a resumed run, composed from its command line as the command does."""
    line = resumed_command_line([f"resume={quoted(str(folder))}", f"data_dir={quoted(str(folder))}", *new])
    (place,) = [one for one in line if one.startswith("hydra.run.dir=")]
    assert str(OverridesParser.create().parse_override(place).value()) == str(folder)
    return compose_config("train", TrainConfig, [one for one in line if not one.startswith("hydra.")])


@pytest.mark.parametrize(
    "overrides",
    [
        ["head.width=${trainer.batch_size}", "optimizer=sgd", "aggregator._target_=lungtl.models.aggregators.max.Max"],
        ["dataset=dicom", "dataset.root=/a (1)/it's 新", "dataset.table=2024",
         "image.windows=[lung,bone,[-600,1500]]", "tracking=none"],
    ],
)  # fmt: skip
def test_a_resumed_run_has_its_own_settings_and_the_new_ones(tmp_path: Path, overrides: list[str]) -> None:
    folder = own(tmp_path / "it's", *overrides)
    earlier = read_yaml(folder / CONFIG)
    config = resumed(folder, "trainer.max_epochs=3", "tracking=none", "dataset.root=/moved")
    check_settings(folder, config.model_dump(mode="json"))
    changed = {"trainer.max_epochs": 3, "tracking.enabled": False, "resume": str(folder), "data_dir": str(folder),
               "dataset.root": "/moved"}  # fmt: skip
    assert flatten(config.model_dump(mode="json")) == flatten(earlier) | changed
    described = own_overrides(folder, config)
    assert {override_key(line) for line in overrides} <= {override_key(line) for line in described}
    assert "trainer.max_epochs=3" in described


def test_without_resume_a_command_line_stays() -> None:
    assert resumed_command_line(["seed=1", "-m", "resume=null"]) == ["seed=1", "-m", "resume=null"]


@pytest.mark.parametrize(
    ("new", "remedy"),
    [(["-m"], "omit -m"), (["debug=fast"], "omit debug"), (["experiments=x"], "omit experiments")],
)
def test_what_a_resumed_run_cannot_be_given(earlier: Path, new: list[str], remedy: str) -> None:
    with pytest.raises(UsageError, match=remedy):
        resumed_command_line([f"resume={earlier}", f"data_dir={earlier}", *new])


def test_a_run_elsewhere_is_resumed_in_a_data_folder_that_the_user_names(tmp_path: Path) -> None:
    folder = own(tmp_path / "data" / "runs" / "x")
    assert resumed_command_line([f"resume={folder}", f"data_dir={tmp_path / 'data'}"])
    with pytest.raises(UsageError, match="add data_dir="):
        resumed_command_line([f"resume={folder}"])


def test_a_run_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    write_record(tmp_path, {"name": "old"})
    with pytest.raises(UsageError, match="earlier version"):
        resumed_command_line([f"resume={tmp_path}", f"data_dir={tmp_path}"])


@pytest.mark.parametrize(
    ("added", "named"),
    [
        ({"hydra": {"callbacks": {"x": {"_target_": "joblib.load", "filename": "x.pkl"}}}}, "hydra is not a setting"),
        ({"head": {"width": "${oc.env:HOME}", "dropout": 0.5}}, "expected a plain setting"),
        ({"seed": "${oc.env:HOME}"}, "expected a plain setting"),
        ({"head": {"width=1 +hydra.x": 2}}, "expected a plain setting"),
        ({"image": [["${oc.env:HOME}"]]}, "expected a plain setting"),
    ],
)
def test_a_strangers_run_can_set_nothing_but_settings(tmp_path: Path, added: dict[str, Any], named: str) -> None:
    folder = own(tmp_path)
    (folder / CONFIG).write_text(json.dumps(read_yaml(folder / CONFIG) | added), encoding="utf-8")  # also YAML
    for take in (resumed, lambda run: repeated_config(run, run, None)):
        with pytest.raises(LungtlError, match=named):
            take(folder)


def test_a_strangers_run_chooses_neither_place_nor_server(tmp_path: Path) -> None:
    folder = own(tmp_path, "data_dir=/elsewhere", "tracking.uri=http://elsewhere:5000", "sweep.name=x", "workers=3")
    config = repeated_config(folder, tmp_path, None)
    assert config.data_dir == tmp_path
    assert (config.tracking.uri, config.sweep.name, config.workers) == (None, None, "auto")
    line = resumed_command_line([f"resume={folder}", f"data_dir={folder}"])
    assert not any("elsewhere" in one or "sweep" in one for one in line)


def test_a_strangers_overrides_are_described_but_never_run(tmp_path: Path) -> None:
    folder = own(tmp_path, "seed=3")
    record = read_record(folder)
    foreign = ["+hydra.callbacks.x={_target_:joblib.load}", "--config-dir=/tmp", "hydra.searchpath=[/tmp]"]
    write_record(folder, record | {"overrides": [*record["overrides"], *foreign]})
    line = resumed_command_line([f"resume={folder}", f"data_dir={folder}"])
    assert not any(one.split("=")[0] in text for one in foreign[:2] for text in line)
    assert own_overrides(folder, composed("seed=3")) == ["seed=3"]


@pytest.mark.parametrize(
    ("group", "target"),
    [
        ("dataset", "joblib.load"),
        ("aggregator", "os.system"),
        ("aggregator", "lungtl.sources.dicom.DicomSource"),
        ("aggregator", "torch.nn.Linear"),
        ("optimizer", "torch.load"),
        ("optimizer", "torch.optim.optimizer.Tensor"),
        ("schedule", "torch.optim.AdamW"),
        ("backbone", "lungtl.settings.parts.importlib.import_module"),
    ],
)
def test_a_strangers_class_is_not_built(group: str, target: str) -> None:
    config = composed().model_copy(update={group: {"_target_": target}})
    with pytest.raises(LungtlError, match=f"_target_={target}"):
        check_trusted(config, None)


def test_lungtls_classes_and_torchs_optimisers_need_no_trust(tmp_path: Path) -> None:
    check_trusted(composed(), None)
    check_trusted(composed("optimizer=sgd", "schedule._target_=torch.optim.lr_scheduler.ExponentialLR",
                           "~schedule.warmup_epochs", "+schedule.gamma=0.9"), None)  # fmt: skip
