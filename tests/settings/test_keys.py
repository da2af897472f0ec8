from __future__ import annotations

import os
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from lungtl.settings import command_line, composing
from lungtl.settings.keys import ELSEWHERE, LENGTH, config_key, container_key, sweep_name

CONFIG = {"seed": 0, "data_dir": "a", "trainer": {"max_epochs": 3, "devices": 1}, "hydra": {"job": {"num": 1}}}


def key(*overrides: str) -> str:
    """Of a training command."""
    with initialize_config_dir(str(composing.conf_dir()), version_base="1.3"):
        return container_key(compose("train", [*overrides, composing.search_path()], return_hydra_config=True))


@pytest.mark.parametrize(
    "overrides",
    [
        ("data_dir=/elsewhere",),
        ("workers=3", "name=x", "resume=y"),
        ("sweep.name=x", "sweep.retry=true"),
        ("tracking=none",),
        ("tracking.uri=http://127.0.0.1:5000", "tracking.experiment=x"),
        ("cache.max_gb=1", "trainer.accelerator=gpu", "trainer.devices=2", "trainer.workers=4"),
        ("evaluation.figures=false",),
        ("hydra.job.chdir=false", "hydra.sweep.dir=/x"),
        ("aggregator=attention", "seed=0", "optimizer.lr=0.0003"),  # as they are anyway
    ],
)
def test_where_and_how_a_run_is_done_is_no_part_of_its_key(overrides: tuple[str, ...]) -> None:
    assert key(*overrides) == key()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "aggregator=max", "head.dropout=0.4", "trainer.max_epochs=3", "dataset.scans=7", "split.fold=1",
     "evaluation.resamples=11", "dry_run=true", "cache.precision=float16"],
)  # fmt: skip
def test_what_a_run_computes_is(override: str) -> None:
    assert key(override) != key()


def test_the_order_of_overrides_does_not_matter() -> None:
    assert key("seed=1", "aggregator=max", "optimizer.lr=1e-3") == key("optimizer.lr=0.001", "aggregator=max", "seed=1")


def test_an_experiment_is_what_it_says() -> None:
    assert key("debug=fast") != key()
    assert key("debug=fast") == key("debug=fast", "data_dir=/x")


def test_every_setting_that_is_left_out_exists() -> None:
    with initialize_config_dir(str(composing.conf_dir()), version_base="1.3"):
        composed = compose("train", [composing.search_path()])
    for name in ELSEWHERE:
        section, _, rest = name.partition(".")
        assert section in composed
        assert not rest or rest in composed[section]


def test_a_key_is_written_down() -> None:
    # it names folders that a later version has to find again: sha256 of {"seed": 0, "trainer": {"max_epochs": 3}}
    assert config_key(CONFIG) == "78123bbeccbf"
    assert len(config_key(CONFIG)) == LENGTH


@given(st.permutations(list(CONFIG)))
def test_the_order_of_keys_does_not_matter(order: list[str]) -> None:
    assert config_key({name: CONFIG[name] for name in order}) == config_key(CONFIG)


def test_hashing_changes_nothing() -> None:
    before = repr(CONFIG)
    config_key(CONFIG)
    assert repr(CONFIG) == before


def test_a_sweep_without_a_name_is_named_by_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command_line.STAMP, "20260101-000000-ab")
    assert sweep_name(None) == os.environ[command_line.STAMP]
    assert sweep_name("x") == "x"
    assert Path(sweep_name("7")).name == "7"
