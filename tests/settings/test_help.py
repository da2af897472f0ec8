from __future__ import annotations

from pathlib import Path

import pytest

from lungtl.settings.folders import conf_dir
from lungtl.settings.help import help_text


@pytest.mark.parametrize("name", sorted(path.stem for path in conf_dir().glob("*.yaml") if path.stem != "common"))
def test_every_command_has_help_with_its_purpose(name: str) -> None:
    text = help_text(name)
    assert text.startswith(f"lungtl {name}")
    assert "data_dir: " in text
    assert "_target_:" not in text
    assert "defaults:" not in text


def test_the_settings_are_those_of_the_given_options() -> None:
    assert "state: 64     # size of the state in each direction" in help_text("train", ["aggregator=gru"])
    assert "state: 64" not in help_text("train")


def test_crossval_has_the_settings_of_train() -> None:
    assert "max_epochs: 40" in help_text("crossval")


def test_own_configs_are_listed(tmp_path: Path) -> None:
    for path in ("aggregator/mine.yaml", "experiments/study.yaml"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("width: 3  # of mine\n")
    text = help_text("train", ["aggregator=mine"], [tmp_path])
    assert "mean_max, mine, multi_head" in " ".join(text.split())
    assert "study" in text
    assert "width: 3  # of mine" in text
