"""Every file in conf/ and experiments/ composes and passes the schema."""

from __future__ import annotations

import re

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from lungtl.settings import checks, folders
from lungtl.settings.composing import compose_config
from lungtl.settings.errors import UsageError
from lungtl.settings.schema import TrainConfig

SEARCHPATH = folders.search_path()
NEEDED = {
    "lidc": ["dataset.root=/x"],
    "lidc_slices": ["dataset.root=/x"],
    "arrays": ["dataset.images=/x", "dataset.table=/x"],
    "dicom": ["dataset.root=/x", "dataset.table=/x"],
    "lidc_maxslice": ["dataset.images=/x", "dataset.table=/x"],
}
GROUPS = [p.name for p in folders.conf_dir().iterdir() if p.is_dir() and p.name != "hydra"]
OPTIONS = [(g, p.stem) for g in sorted(GROUPS) for p in sorted((folders.conf_dir() / g).glob("*.yaml"))]
STUDIES = [p.stem for p in sorted((folders.conf_dir().parent / "experiments").glob("*.yaml"))]
NEEDED |= {name: ["dataset.root=/x"] for name in STUDIES}
NEEDED |= dict.fromkeys(("maxslice", "ct_pretrained"), NEEDED["lidc_maxslice"])
OPTIONS += [("experiments", name) for name in STUDIES]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes(group: str, option: str) -> None:
    checks.check("train", TrainConfig, [f"{group}={option}", *NEEDED.get(option, [])], multirun=False)


def test_an_experiment_is_made_of_these_groups() -> None:
    model = {"backbone", "freezing", "aggregator", "loss", "optimizer", "schedule"}
    expected = model | {"dataset", "trainer", "tracking", "debug"}
    assert set(GROUPS) == expected


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_starts_by_saying_what_it_is(group: str, option: str) -> None:
    if group in {"optimizer", "trainer"}:
        return  # their keys say it
    folder = folders.conf_dir().parent if group == "experiments" else folders.conf_dir()
    text = (folder / group / f"{option}.yaml").read_text()
    assert re.match(r"(# @package _global_\n)?# \S", text)


@pytest.mark.parametrize(
    ("overrides", "key", "value"),
    [
        (["experiments=frozen"], "image.crop_mm", 16),
        (["experiments=maxslice"], "dataset.name", "lidc_maxslice"),
        (["experiments=nodules", "image.crop_mm=24"], "image.crop_mm", 24),
        (["debug=fast"], "trainer.max_epochs", 1),
        ([], "split.kind", "holdout"),
    ],
)
def test_a_study_wins_over_the_defaults_and_the_command_line_over_both(
    overrides: list[str], key: str, value: object
) -> None:
    with initialize_config_dir(str(folders.conf_dir()), version_base="1.3"):
        composed = compose("train", [*overrides, SEARCHPATH])
    assert OmegaConf.select(composed, key) == value


def test_the_tracking_server_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # mlflow sets it itself
    assert compose_config("train", TrainConfig, []).tracking.uri is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert compose_config("train", TrainConfig, []).tracking.uri == "http://host:5000"
    assert compose_config("train", TrainConfig, ["tracking.uri=sqlite:////x.db"]).tracking.uri == "sqlite:////x.db"


def test_a_backbone_must_accept_what_a_bundle_rebuilds_it_with() -> None:
    with pytest.raises(UsageError, match="its __init__ must accept features, which lungtl provides"):
        checks.check("train", TrainConfig, ["backbone._target_=torch.nn.Linear", *(
            f"~backbone.{key}" for key in ("name", "weights", "features"))], multirun=False)  # fmt: skip
