"""Options of datasets on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from lungtl.settings import folders, parts

FILES = sorted((folders.conf_dir() / "dataset").glob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_option_of_a_dataset_can_be_set_without_a_plus(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    target = config.pop(parts.TARGET)
    options = parts.signature(target, "dataset")
    assert config.keys() == options.keys()
    for name, value in config.items():
        assert value != "???" or options[name].required
