from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lungtl import cli
from lungtl.config import EvaluateConfig, PrepareConfig, Strict, TrainConfig
from lungtl.errors import UsageError

SEARCHPATH = f"hydra.searchpath=['file://{cli.conf_dir().parent}']"
SCHEMAS: dict[str, type[Strict]] = {"train": TrainConfig, "prepare": PrepareConfig, "evaluate": EvaluateConfig}


def complaint(config: str, *overrides: str) -> str:
    with pytest.raises(UsageError) as error:
        cli.check(config, SCHEMAS[config], list(overrides), SEARCHPATH)
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
        ("experiments=lidc_maxslise", "lidc_maxslise", "lidc_maxslice"),
        ("+sede=3", "sede", "seed"),
    ],
)
def test_a_wrong_name_is_answered_with_the_nearest_right_one(override: str, named: str, nearest: str) -> None:
    message = complaint("train", override)
    assert named in message
    assert f"did you mean {nearest}?" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("overrides", "wanted"),
    [
        (["aggregator.hidden=0"], "greater than or equal to 1"),
        (["aggregator.hidden=many"], "valid integer"),
        (["optimizer.lr=-1"], "greater than 0"),
        (["seed=abc"], "valid integer"),
        (["image.windows=[lung,bone]"], "one window or 3, one a channel, not 2"),
        (["image.windows=[lun]"], "lun is no window"),
        (["image.windows=[lung,bone,wide]", "image.neighbours=true"], "give one window"),
        (["dataset=lidc"], "dataset.root is missing; give dataset.root=FOLDER"),
        (["dataset=lidc", "dataset.root=/x", "dataset.min_readers=5"], "less than or equal to 4"),
        (["dataset=lidc", "dataset.root=/x", "dataset.rule=average"], "'mean', 'median' or 'max'"),
        (["sweep.name=../x"], "should match pattern"),
        (["sweep.retry=2"], "valid boolean"),
        (["dataset.matrix=16"], "greater than or equal to 32"),
        (["backbone"], "key=value"),
    ],
)
def test_a_wrong_value_is_named_with_what_was_wanted(overrides: list[str], wanted: str) -> None:
    message = complaint("train", *overrides)
    assert wanted in message
    assert "\n" not in message


def test_every_value_of_a_sweep_is_checked() -> None:
    assert "resnet19" in complaint("train", "backbone=resnet18,resnet19", "seed=0,1")
    assert "greater than" in complaint("train", "optimizer.lr=1e-3,-1")
    cli.check("train", TrainConfig, ["backbone=resnet18,resnet50", "seed=range(0,3)"], SEARCHPATH)


def test_prepare_knows_only_its_own_settings() -> None:
    assert "unknown key backbone" in complaint("prepare", "backbone=resnet18")


def test_evaluate_needs_a_model() -> None:
    assert "model is missing" in complaint("evaluate")


def _run(*arguments: str, data_dir: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys, runpy\n"
        "try:\n    runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)\n"
        "finally:\n    print('torch' in sys.modules, file=sys.stderr)"
    )
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=data_dir, timeout=60,
        env={"LUNGTL_DATA_DIR": str(data_dir), "PATH": ""}, check=False,
    )  # fmt: skip


def test_a_typo_exits_with_2_in_one_line_without_torch(tmp_path: Path) -> None:
    done = _run("lungtl.train", "agregator=max", data_dir=tmp_path)
    assert done.returncode == 2
    message, torch_imported = done.stderr.strip().splitlines()
    assert message.startswith("error: unknown key agregator; did you mean aggregator?")
    assert torch_imported == "False"
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_help_lists_groups_and_settings_without_torch(tmp_path: Path) -> None:
    done = _run("lungtl.train", "--help", data_dir=tmp_path)
    assert done.returncode == 0
    assert (
        "aggregator: attention, clam, conv1d, dsmil, gated_attention, gru, lse, max, mean, multi_head, noisy_or, "
        "sm_attention, top_k, transformer, transmil"
    ) in done.stdout
    assert "max_epochs: " in done.stdout
    assert done.stderr.strip() == "False"


def test_a_failure_exits_with_1(tmp_path: Path) -> None:
    done = _run("lungtl.prepare", "dataset=lidc", "dataset.root=/nowhere", data_dir=tmp_path)
    assert done.returncode == 1
    assert "error: dataset.root=/nowhere is not a folder" in done.stderr


@pytest.mark.parametrize("arguments", [["seed=7", "--cfg", "job"], ["--cfg", "job", "seed=7"], ["--cfg", "job"]])
def test_the_composed_config_is_shown_wherever_the_flag_stands(tmp_path: Path, arguments: list[str]) -> None:
    done = _run("lungtl.train", *arguments, data_dir=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"seed: {7 if 'seed=7' in arguments else 0}\n" in done.stdout
