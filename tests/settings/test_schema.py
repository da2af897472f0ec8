"""Every file in conf/ and experiments/ composes and passes the schema."""

from __future__ import annotations

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lungtl.settings import composing
from lungtl.settings.schema import TrainConfig

SEARCHPATH = composing.search_path()
NEEDED = {
    "lidc": ["dataset.root=/x"],
    "lidc_slices": ["dataset.root=/x"],
    "arrays": ["dataset.images=/x", "dataset.table=/x"],
    "dicom": ["dataset.root=/x", "dataset.table=/x"],
    "lidc_slices_definite": ["dataset.root=/x"],
    "lidc_maxslice": ["dataset.images=/x", "dataset.table=/x"],
}
GROUPS = [p.name for p in composing.conf_dir().iterdir() if p.is_dir() and p.name != "hydra"]
OPTIONS = [(g, p.stem) for g in sorted(GROUPS) for p in sorted((composing.conf_dir() / g).glob("*.yaml"))]
OPTIONS += [("experiments", p.stem) for p in sorted((composing.conf_dir().parent / "experiments").glob("*.yaml"))]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    composing.check("train", TrainConfig, [f"{group}={option}", *NEEDED.get(option, [])], multirun=False)


def test_an_experiment_is_made_of_these_groups() -> None:
    model = {"backbone", "freezing", "aggregator", "loss", "optimizer", "schedule"}
    expected = model | {"dataset", "trainer", "tracking", "debug"}
    assert set(GROUPS) == expected


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_starts_by_saying_what_it_is(group: str, option: str) -> None:
    if group in {"optimizer", "trainer"}:
        return  # their keys say it
    folder = composing.conf_dir().parent if group == "experiments" else composing.conf_dir()
    text = (folder / group / f"{option}.yaml").read_text()
    assert re.match(r"(# @package _global_\n)?# \S", text)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["experiments=lidc_maxslice"], "split.kind", "source"),
        (["experiments=lidc_slices_definite"], "image.crop", 48),
        (["experiments=lidc_slices_definite", "image.crop=32"], "image.crop", 32),
        (["debug=fast"], "trainer.max_epochs", 1),
        ([], "split.kind", "holdout"),
    ],
)
def test_a_study_wins_over_the_defaults_and_the_command_line_over_both(
    overrides: list[str], key: str, value: object
) -> None:
    with initialize_config_dir(str(composing.conf_dir()), version_base="1.3"):
        composed = compose("train", [*overrides, SEARCHPATH])
    assert OmegaConf.select(composed, key) == value
