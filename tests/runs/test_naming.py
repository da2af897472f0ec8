from __future__ import annotations

from pathlib import Path

from omegaconf import OmegaConf

from lungtl.runs.naming import run_name, varying_overrides
from lungtl.settings.keys import flatten

CHOICES = {"dataset": "phantom", "backbone": "resnet18", "freezing": "frozen", "aggregator": "max", "loss": "bag_only"}


def test_a_run_is_named_by_its_choices_and_what_else_differs() -> None:
    overrides = ["backbone=resnet18", "optimizer.lr=0.1", "data_dir=/x", "dataset.root=/y", "+seed=3", "tracking.uri=z"]
    assert run_name(CHOICES, overrides) == "optimizer.lr=0.1 +seed=3 phantom resnet18 frozen max"


def test_a_part_that_replaces_an_option_is_named_instead_of_it() -> None:
    choices = {**CHOICES, "backbone": "resnet50.a1_in1k", "aggregator": "Mine"}
    for name in ("resnet50.a1_in1k", "'resnet50.a1_in1k'"):
        overrides = [f"backbone.name={name}", "aggregator._target_=mylab.agg.Mine", "loss._target_=mylab.Loss"]
        assert run_name(choices, overrides) == "loss._target_=mylab.Loss phantom resnet50.a1_in1k frozen Mine"
    own = {**CHOICES, "backbone": "our_option"}
    assert run_name(own, ["backbone.name=resnet50"]) == "backbone.name=resnet50 phantom our_option frozen max"


def test_what_is_drawn_is_no_part_of_a_name() -> None:
    assert run_name(CHOICES, ["evaluation.figures=false", "seed=1"]) == "seed=1 phantom resnet18 frozen max"


def test_a_child_differs_in_what_is_swept_however_the_rest_was_written(tmp_path: Path) -> None:
    task = [
        "aggregator=mean,max",
        "optimizer.lr=1e-3",
        "cache.enabled=false",
        "+x=1",
        "name='a, b'",
        "head.dropout=0.5",
    ]
    OmegaConf.save({"hydra": {"overrides": {"task": task}}}, tmp_path / "multirun.yaml")
    own = ["aggregator=max", "optimizer.lr=0.001", "cache.enabled=False", "+x=1", "name='a, b'", "head.dropout=0.4"]
    assert varying_overrides(tmp_path, own) == ["aggregator=max", "head.dropout=0.4"]
    assert varying_overrides(tmp_path / "elsewhere", own) == own


def test_a_file_is_named_without_its_folder() -> None:
    name = run_name(CHOICES, ["backbone.weights=/data/run-7", "+backbone.weights=b/c.pth"])
    assert name == "backbone.weights=run-7 +backbone.weights=c.pth phantom resnet18 frozen max"


def test_settings_are_flattened_for_the_tracker() -> None:
    assert flatten({"a": {"b": 1, "c": {"d": None}}, "e": [1]}) == {"a.b": 1, "a.c.d": None, "e": [1]}


def test_groups_other_than_the_four_choices_are_in_the_name() -> None:
    overrides = ["aggregator=max", "loss=focal", "optimizer=sgd"]
    assert run_name(CHOICES, overrides) == "loss=focal optimizer=sgd phantom resnet18 frozen max"
