from __future__ import annotations

from pathlib import Path

import pytest

import lungtl
from lungtl.settings.composing import compose_config
from lungtl.settings.schema import TrainConfig

FIRST = ["dataset=phantom", "backbone=resnet18"]
CLASS = "lungtl.models.aggregators.max.Max"


@pytest.mark.parametrize(
    ("overrides", "group", "choice"),
    [
        ([], "backbone", "resnet18"),
        (["backbone.name=resnet50"], "backbone", "resnet50"),
        (["backbone.name='resnet50'"], "backbone", "resnet50"),
        (["backbone.name=resnet18.a1_in1k"], "backbone", "resnet18"),
        (["backbone.weights=none"], "backbone", "resnet18"),
        ([f"aggregator._target_={CLASS}"], "aggregator", "Max"),
        (["aggregator=max"], "aggregator", "max"),
    ],
)
def test_a_part_that_replaces_an_option_is_the_choice(overrides: list[str], group: str, choice: str) -> None:
    assert lungtl.compose([*FIRST, *overrides]).choices[group] == choice


def test_also_where_an_experiment_replaces_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments" / "mine.yaml").write_text("# @package _global_\nbackbone: {name: resnet50}\n")
    monkeypatch.chdir(tmp_path)
    assert lungtl.compose(["dataset=phantom", "experiments=mine"]).choices["backbone"] == "resnet50"


def test_an_option_of_ones_own_keeps_its_name(tmp_path: Path) -> None:
    (tmp_path / "aggregator").mkdir()
    (tmp_path / "aggregator" / "ours.yaml").write_text(f"_target_: {CLASS}\n")
    config = compose_config("train", TrainConfig, ["dataset=phantom", "aggregator=ours"], [tmp_path])
    assert config.choices["aggregator"] == "ours"
