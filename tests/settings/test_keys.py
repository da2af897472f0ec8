from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from lungtl.settings import command_line, folders, keys
from lungtl.settings.keys import DATASETS, LENGTH, config_key, container_key, dataset_hash, sweep_name

CONFIG = {"seed": 0, "data_dir": "a", "trainer": {"max_epochs": 3, "devices": 1}, "hydra": {"job": {"num": 1}}}
PARTS = ("aggregator", "backbone", "dataset", "freezing", "loss", "optimizer", "schedule")
MEANINGS = """
aggregator.*            setting  fixed    named    reproduced
backbone.*              setting  fixed    named    reproduced
backbone.weights        setting  changes  named    reproduced
bundle                  none     changes  -        reproduced
cache.enabled           setting  changes  named    reproduced
cache.max_gb            none     changes  -        reproduced
cache.precision         setting  fixed    named    reproduced
cache.views             setting  fixed    named    reproduced
covariates              setting  changes  named    reproduced
data_dir                none     changes  -        -
dataset.*               setting  fixed    named    reproduced
dataset.images          place    changes  -        reproduced
dataset.root            place    changes  -        reproduced
dataset.table           place    changes  -        reproduced
dry_run                 repeat   changes  -        -
evaluation.calibration  setting  changes  named    reproduced
evaluation.figures      none     changes  -        reproduced
evaluation.heatmaps     none     changes  -        reproduced
evaluation.probe        setting  changes  named    reproduced
evaluation.resamples    setting  changes  named    reproduced
evaluation.untrained    setting  changes  named    reproduced
evaluation.views        setting  changes  named    reproduced
freezing.*              setting  fixed    named    reproduced
head.dropout            setting  fixed    named    reproduced
head.weight_decay       setting  fixed    named    reproduced
head.width              setting  fixed    named    reproduced
image.augment           setting  fixed    named    reproduced
image.channels          setting  fixed    named    reproduced
image.crop              setting  fixed    named    reproduced
image.crop_mm           setting  fixed    named    reproduced
image.jitter.brightness setting  fixed    named    reproduced
image.jitter.contrast   setting  fixed    named    reproduced
image.jitter.noise      setting  fixed    named    reproduced
image.jitter.rotation   setting  fixed    named    reproduced
image.jitter.shift      setting  fixed    named    reproduced
image.jitter.zoom       setting  fixed    named    reproduced
image.neighbours        setting  fixed    named    reproduced
image.pixel_mm          setting  fixed    named    reproduced
image.size              setting  fixed    named    reproduced
image.train_slices      setting  fixed    named    reproduced
image.windows           setting  fixed    named    reproduced
loss.*                  setting  fixed    named    reproduced
name                    none     changes  -        -
optimizer.*             setting  fixed    named    reproduced
resume                  none     changes  -        -          crossval
schedule.*              setting  fixed    named    reproduced
seed                    repeat   fixed    named    reproduced
split.fold              repeat   fixed    named    reproduced crossval
split.folds             setting  fixed    named    reproduced
split.kind              setting  fixed    named    reproduced crossval
split.seed              repeat   fixed    named    reproduced
split.test              setting  fixed    named    reproduced
split.train_patients    setting  fixed    named    reproduced
split.val               setting  fixed    named    reproduced
sweep.name              none     changes  -        -
sweep.retry             none     changes  -        -
sweep.ensemble          none     changes  -        -
tracking.enabled        none     changes  -        reproduced
tracking.experiment     none     changes  -        reproduced
tracking.uri            none     changes  -        -
trainer.accelerator     none     changes  -        reproduced
trainer.accumulate      setting  fixed    named    reproduced
trainer.batch_size      setting  fixed    named    reproduced
trainer.bucket          setting  fixed    named    reproduced
trainer.clip_norm       setting  fixed    named    reproduced
trainer.compile         none     changes  -        reproduced
trainer.devices         none     changes  -        reproduced
trainer.ema             setting  fixed    named    reproduced
trainer.limit_batches   setting  fixed    named    reproduced
trainer.max_epochs      setting  changes  named    reproduced
trainer.monitor         setting  fixed    named    reproduced
trainer.patience        setting  changes  named    reproduced
trainer.precision       setting  fixed    named    reproduced
trainer.sampler         setting  fixed    named    reproduced
trainer.workers         none     changes  -        reproduced
trust                   none     changes  -        -
verbose                 none     changes  -        -
workers                 none     changes  -        -
"""


@pytest.fixture(autouse=True)
def _stamp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(command_line.STAMP, "20260101-000000-ab")


def key(*overrides: str) -> str:
    """Of a training command."""
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        return container_key(compose("train", [*overrides, folders.search_path()], return_hydra_config=True))


def leaves(config: Any, prefix: str = "") -> Iterator[str]:
    for name, value in config.items():
        if isinstance(value, dict) and value:
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def described(name: str) -> str:
    one = keys.meaning(name)
    words = [
        one.identity,
        "changes" if one.may_change else "fixed",
        "named" if one.in_name else "-",
        "reproduced" if one.reproduced else "-",
        "crossval" if one.set_by_crossval else "",
    ]
    return (f"{name:24}" + "".join(f"{word:9}" for word in words[:3]) + f"{words[3]:11}{words[4]}").strip()


def test_every_key_of_training_has_the_meaning_that_is_written_here() -> None:
    """Columns as in `TABLE`; a part's options share one line, except those with an entry of their own."""
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        composed = OmegaConf.to_container(compose("train", ["+dataset.table=x", "+dataset.images=y"]))
    names = {
        f"{name.partition('.')[0]}.*" if name.partition(".")[0] in PARTS and name not in keys.TABLE else name
        for name in leaves(composed)
    }
    assert sorted(map(described, names)) == sorted(MEANINGS.strip().splitlines())


def test_an_entry_is_of_a_key_that_exists() -> None:
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        composed = compose("train", ["+dataset.table=x", "+dataset.images=y"], return_hydra_config=True)
    missing = object()
    assert [name for name in keys.TABLE if OmegaConf.select(composed, name, default=missing) is missing] == []


def test_a_name_has_only_what_identifies_a_run() -> None:
    assert [name for name, one in keys.TABLE.items() if one.in_name and one.identity in ("none", "place")] == []


@pytest.mark.parametrize(
    ("name", "identity"),
    [("tracking", "none"), ("tracking.uri", "none"), ("evaluation.figures", "none"),
     ("evaluation.resamples", "setting"), ("trainer.max_epochs", "setting"), ("hydra/launcher", "none"),
     ("data_dirx", "setting"), ("dataset", "setting"), ("aggregator.root", "setting")],
)  # fmt: skip
def test_the_longest_prefix_decides(name: str, identity: str) -> None:
    assert keys.meaning(name).identity == identity


@pytest.mark.parametrize(
    ("override", "name"), [("a.b=1", "a.b"), ("+a=x=y", "a"), ("~a", "a"), ("++a.b={c: 1}", "a.b"), ("a/b=c", "a/b")]
)
def test_the_key_of_an_override(override: str, name: str) -> None:
    assert keys.override_key(override) == name


@pytest.mark.parametrize(
    "overrides",
    [
        ("data_dir=/elsewhere",),
        ("workers=3", "name=x", "resume=y"),
        ("sweep.name=x", "sweep.retry=true"),
        ("tracking=none",),
        ("tracking.uri=http://127.0.0.1:5000", "tracking.experiment=x"),
        ("cache.max_gb=1", "trainer.accelerator=gpu", "trainer.devices=2", "trainer.workers=4", "trainer.compile=true"),
        ("evaluation.figures=false", "evaluation.heatmaps=false"),
        ("hydra.job.chdir=false", "hydra.sweep.dir=/x"),
        ("aggregator=mean_max", "seed=0", "head.dropout=0.5"),  # the defaults
    ],
)
def test_where_and_how_a_run_is_executed_does_not_change_its_key(overrides: tuple[str, ...]) -> None:
    assert key(*overrides) == key()


@pytest.mark.parametrize(
    "override",
    ["seed=1", "aggregator=max", "head.dropout=0.4", "trainer.max_epochs=3", "dataset.scans=7", "dataset.root=/x",
     "split.fold=1", "evaluation.resamples=11", "dry_run=true", "cache.precision=float16"],
)  # fmt: skip
def test_what_a_run_computes_changes_its_key(override: str) -> None:
    assert key(override) != key()


def test_the_order_of_overrides_does_not_matter() -> None:
    assert key("seed=1", "aggregator=max", "head.width=64") == key("head.width=64", "aggregator=max", "seed=1")


def test_an_experiment_counts_by_its_content() -> None:
    assert key("debug=fast") != key()
    assert key("debug=fast") == key("debug=fast", "data_dir=/x")


def test_a_moved_dataset_is_the_same_dataset(tmp_path: Path) -> None:
    here, there, other = ({"root": root, "crop": "none"} for root in ("/here", "/there", "/other"))
    fingerprints = {dataset_hash(here): "f", dataset_hash(there): "f", dataset_hash(other): "g"}
    known = [config_key({"dataset": dataset, "seed": 0}, fingerprints) for dataset in (here, there, other)]
    assert known[0] == known[1] != known[2]
    assert config_key({"dataset": here}) != config_key({"dataset": there})  # nobody has read them
    changed = {dataset_hash({**here, "crop": "lungs"}): "f"}
    assert config_key({"dataset": {**here, "crop": "lungs"}, "seed": 0}, changed) != known[0]


def test_fingerprints_are_those_of_the_sweep(tmp_path: Path) -> None:
    sweep = tmp_path / "sweeps" / "x"
    sweep.mkdir(parents=True)
    lines = (f"data_dir={tmp_path}", "sweep.name=x")
    roots = ("dataset.root=/here", "dataset.root=/there")
    assert key(*lines, roots[0]) != key(*lines, roots[1])
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        sections = [OmegaConf.to_container(compose("train", [root]).dataset) for root in roots]
    (sweep / DATASETS).write_text(json.dumps({dataset_hash(section): "f" for section in sections}))
    assert key(*lines, roots[0]) == key(*lines, roots[1])


def test_repeats_share_the_key_of_their_setting() -> None:
    runs = [{"seed": seed, "split": {"seed": seed, "fold": 1, "folds": 5}, "head": {"width": 1}} for seed in (0, 1)]
    assert config_key(runs[0]) != config_key(runs[1])
    assert config_key(runs[0], repeats=False) == config_key(runs[1], repeats=False)
    assert config_key({**runs[0], "head": {"width": 2}}, repeats=False) != config_key(runs[0], repeats=False)


def test_a_key_stays_the_same_over_versions() -> None:
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


def test_a_sweep_without_a_name_is_named_by_its_start() -> None:
    assert sweep_name(None) == os.environ[command_line.STAMP]
    assert sweep_name("x") == "x"
    assert Path(sweep_name("7")).name == "7"
