"""Options of datasets on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
from hydra import compose
from omegaconf import OmegaConf

from lungtl.settings import folders, parts
from lungtl.settings.checks import hydra_on_conf

FILES = sorted((folders.conf_dir() / "dataset").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_option_of_a_dataset_can_be_set_without_a_plus(path: Path) -> None:
    with hydra_on_conf():
        composed = compose("prepare", [f"dataset={path.stem}"])
    config = cast("dict[str, object]", OmegaConf.to_container(composed.dataset))  # with the file's defaults
    target = str(config.pop(parts.TARGET))
    options = parts.signature(target, "dataset")
    assert config.keys() == options.keys()
    for name, value in config.items():
        assert value != "???" or options[name].required
