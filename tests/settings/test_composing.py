from __future__ import annotations

from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from lungtl.runs.folder import place_of_data, places
from lungtl.settings import checks, composing, folders
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import EvaluateConfig, PrepareConfig, TrainConfig
from lungtl.settings.sections import Strict

SCHEMAS: dict[str, type[Strict]] = {"train": TrainConfig, "prepare": PrepareConfig, "evaluate": EvaluateConfig}


def complaint(config: str, *overrides: str, multirun: bool = False) -> str:
    with pytest.raises(UsageError) as error:
        checks.check(config, SCHEMAS[config], list(overrides), multirun)
    return str(error.value)


@pytest.mark.parametrize(
    ("override", "named", "nearest"),
    [
        ("bakbone=resnet18", "bakbone", "backbone"),
        ("backbone=resnet81", "resnet81", "resnet18"),
        ("trainer.max_epoch=3", "trainer.max_epoch", "trainer.max_epochs"),
        ("phantom.matrix=512", "phantom.matrix", "dataset.matrix"),
        ("aggregator.hiden=64", "aggregator.hiden", "aggregator.hidden"),
        ("+aggregator.hiden=64", "aggregator.hiden", "aggregator.hidden"),
        ("trainer.monitor=val/los", "val/los", "val/loss"),
        ("experiments=maxslise", "maxslise", "maxslice"),
        ("+sede=3", "sede", "seed"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(override: str, named: str, nearest: str) -> None:
    message = complaint("train", "aggregator=attention", override)
    assert named in message
    assert f"did you mean {nearest}?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["aggregator=attention", "aggregator.hidden=0"], "greater than or equal to 1"),
        (["aggregator=attention", "aggregator.hidden=many"], "valid integer"),
        (["optimizer.lr=-1"], "greater than 0"),
        (["seed=abc"], "valid integer"),
        (["image.windows=[lung,bone]"], "one window or 3, one per channel, not 2"),
        (["image.windows=[lun]"], "lun is not a window"),
        (["image.windows=[lung,bone,wide]", "image.neighbours=true"], "give one window"),
        (["dataset=lidc"], "dataset.root is missing; give dataset.root=FOLDER"),
        (["dataset=lidc", "dataset.root=/x", "dataset.min_readers=5"], "less than or equal to 4"),
        (["dataset=lidc", "dataset.root=/x", "dataset.rule=average"], "'mean', 'median' or 'max'"),
        (["sweep.name=../x"], "should match pattern"),
        (["sweep.retry=2"], "valid boolean"),
        (["dataset.matrix=16"], "greater than or equal to 32"),
        (["backbone"], "key=value"),
        # what Hydra itself would take, or answer at length
        (["backbone=[resnet18,resnet50]"], "no such option"),
        (["backbone=resnet18.yaml"], "backbone=resnet18.yaml: no such option"),
        (["+backbone=resnet18"], "Multiple values for backbone"),
        (["trainer={max_epoch: 3}"], "unknown key trainer.max_epoch; did you mean trainer.max_epochs?"),
        (["hydra.mode=FOO"], "FOO"),
        (["aggregator=glob(x*)"], "aggregator=glob(x*) matches no value"),
        # paths and names
        (["hydra.job.chdir=true"], "hydra.job.chdir=true: paths are relative to the folder of the command; omit it"),
        (["dataset.root="], "dataset.root is empty; give it a value, or omit it"),
        (["tracking.experiment=''"], "tracking.experiment is empty"),
        (["data_dir="], "data_dir is empty"),
        (["dataset.name=../elsewhere"], "dataset.name=../elsewhere: string should match pattern"),
        ([f"sweep.name={'s' * 300}"], "at most 100 characters"),
        (["+evaluation.resample=3"], "did you mean evaluation.resamples?"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(overrides: list[str], wanted: str) -> None:
    message = complaint("train", *overrides)
    assert wanted in message
    assert "\n" not in message


def test_every_value_of_a_sweep_is_checked() -> None:
    assert "resnet19" in complaint("train", "backbone=resnet18,resnet19", "seed=0,1", multirun=True)
    assert "greater than" in complaint("train", "optimizer.lr=1e-3,-1", multirun=True)
    checks.check("train", TrainConfig, ["backbone=resnet18,resnet50", "seed=range(0,3)"], multirun=True)


def test_prepare_knows_only_its_own_settings() -> None:
    assert "unknown key backbone" in complaint("prepare", "backbone=resnet18")
    assert "unknown key experiments" in complaint("evaluate", "experiments=null", "model=x")


def test_evaluate_needs_a_model() -> None:
    assert "model is missing" in complaint("evaluate")


@pytest.mark.parametrize(
    ("line", "way"),
    [
        ("aggregator=mean,max", "-m to make a run of each"),
        ("aggregator=glob(me*)", "-m to make a run of each"),
        ("seed=range(0,3)", "-m to make a run of each"),
        ("optimizer.lr=interval(0.1,1)", "-m hydra/sweeper=optuna to search it"),
    ],
)
def test_several_values_need_a_sweep(line: str, way: str) -> None:
    message = complaint("train", "trainer.max_epochs=1", line)
    assert message.startswith(f"{line} has several values; add {way}, or")
    lines = [line, *["hydra/sweeper=optuna"] * ("optuna" in way)]
    checks.check("train", TrainConfig, lines, multirun=True)
    checks.check("train", TrainConfig, [*lines, "hydra.mode=MULTIRUN"], multirun=False)
    checks.check("crossval", TrainConfig, lines, multirun=False)  # sweeps by itself


def test_a_range_needs_a_search() -> None:
    message = complaint("train", "seed=0,1", "optimizer.lr=interval(0.1,1)", multirun=True)
    assert message == "optimizer.lr=interval(0.1,1) is a range to search; add hydra/sweeper=optuna, or give values"


def test_a_comma_in_a_value_can_be_quoted() -> None:
    assert """quote it twice: 'name="..."'""" in complaint("train", "name=before, after")
    assert """quote it twice: 'name='"'"'a~b, c'"'"''""" in complaint("train", "name=a~b, c")
    checks.check("train", TrainConfig, ['name="before, after"'], multirun=False)


def test_the_folders_of_a_users_configs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own").mkdir()
    for arguments in (["--config-dir", "own"], ["--config-dir=own"], ["x=1", "-cd", "own", "y=2"]):
        assert folders.user_folders(arguments) == [tmp_path / "own"]
    assert folders.user_folders(["aggregator=max"]) == []
    (tmp_path / "experiments").mkdir()
    assert folders.user_folders([]) == [tmp_path]
    for arguments in (["--config-dir", "owm"], ["-cd"]):
        with pytest.raises(UsageError, match="no such folder"):
            folders.user_folders(arguments)


def test_a_users_options_are_known(tmp_path: Path) -> None:
    (tmp_path / "aggregator").mkdir()
    (tmp_path / "aggregator" / "our own.yaml").write_text(f"_target_: {MAX}\nlevel: embedding\n")
    checks.check("train", TrainConfig, ["aggregator='our own'"], multirun=False, folders=[tmp_path])
    with pytest.raises(UsageError, match="did you mean our own"):
        checks.check("train", TrainConfig, ["aggregator=our_own"], multirun=False, folders=[tmp_path])


MAX, GRU = "lungtl.models.aggregators.max.Max", "lungtl.models.aggregators.gru.Gru"


@pytest.mark.parametrize(
    ("overrides", "deleted"),
    [
        (["aggregator=gru"], []),
        (["aggregator=attention", f"aggregator._target_={MAX}"], ["~aggregator.hidden"]),
        (["aggregator=top_k", f"aggregator._target_={GRU}"], ["~aggregator.level", "~aggregator.k"]),
        ([f"aggregator._target_={GRU}"], []),
        (["aggregator=attention", f"aggregator._target_={MAX},{GRU}"], ["~aggregator.hidden"]),
        (["aggregator=attention", f"aggregator._target_={MAX}", "~aggregator.hidden", "seed=0,1"], []),
        (["optimizer._target_=torch.optim.RMSprop"], []),
    ],
)
def test_a_class_does_not_get_the_options_of_the_one_it_replaces(overrides: list[str], deleted: list[str]) -> None:
    assert composing.unused_options("train", overrides) == deleted
    checks.check("train", TrainConfig, [*overrides, *deleted], multirun=True)


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (
            ["aggregator=attention", f"aggregator._target_={MAX}", "aggregator.hidden=3"],
            "unknown key aggregator.hidden",
        ),
        (["agregator._target_=lungtl.x.Y"], "did you mean aggregator"),
    ],
)
def test_options_that_the_user_gives_are_checked(overrides: list[str], named: str) -> None:
    assert composing.unused_options("train", overrides) == []
    assert named in complaint("train", *overrides)


def test_a_config_outside_a_command() -> None:
    config = composing.compose_config("train", TrainConfig, ["aggregator=max", "seed=3"])
    assert config.seed == 3
    assert config.aggregator["_target_"] == MAX
    assert config.choices["aggregator"] == "max"
    assert config.overrides == ["aggregator=max", "seed=3"]
    with pytest.raises(UsageError, match="did you mean"):
        composing.compose_config("train", TrainConfig, ["agregator=max"])


def test_a_config_inside_another_hydra_application() -> None:
    """`lungtl.reproduce` composes the config of `lungtl.train`."""
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        assert composing.compose_config("train", TrainConfig, ["seed=3"]).seed == 3
        assert compose("prepare", ["workers=1"]).workers == 1


def test_a_password_is_refused_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "http://me:secret@host:5000"
    message = complaint("train", f"tracking.uri={uri}")
    assert "http://***@host:5000" in message
    assert "set the environment variable MLFLOW_TRACKING_URI" in message
    assert "secret" not in message
    (tmp_path / "tracking").mkdir()
    (tmp_path / "tracking" / "ours.yaml").write_text(f"enabled: true\nuri: {uri}\nexperiment: x\n")
    with pytest.raises(UsageError, match="set the environment"):
        checks.check("train", TrainConfig, ["tracking=ours"], multirun=False, folders=[tmp_path])
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    checks.check("train", TrainConfig, ["tracking.uri=postgresql://me@host/x"], multirun=False)
    config = composing.compose_config("train", TrainConfig, [])
    assert config.tracking.uri == uri
    assert places(config.data_dir, config.tracking) == place_of_data(config.data_dir)  # the shell still has the URI
