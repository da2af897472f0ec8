"""A resumed run keeps the settings that `lungtl.settings.keys` fixes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lungtl.settings.errors import UsageError
from lungtl.settings.keys import may_change_on_resume


def check_unchanged(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare the config of a run with that of the command that resumes it.

    Raises:
        UsageError: a key differs that must not.
    """
    old, new = _leaves(before), _leaves(now)
    for key in sorted(old.keys() | new.keys()):
        was, given = old.get(key, "not set"), new.get(key, "not set")
        if was != given and not may_change_on_resume(key):
            raise UsageError(f"cannot resume: {key} was {was}, now it is {given}; omit it or start a new run")


def check_settings(earlier: Path, overrides: list[str], config_name: str = "train") -> None:
    """`check_unchanged` for a run's folder, as Hydra has left it, and the command line that resumes it.

    Args:
        earlier: the run's folder.
        overrides: of the command, the run's own included.
        config_name: the primary config in conf/.

    Raises:
        UsageError: a key differs that must not.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lungtl.settings.composing import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose(config_name, overrides)
    before, now = (OmegaConf.to_container(one) for one in (OmegaConf.load(earlier / ".hydra/config.yaml"), composed))
    assert isinstance(before, dict)
    assert isinstance(now, dict)
    check_unchanged({str(k): v for k, v in before.items()}, {str(k): v for k, v in now.items()})


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, child in value.items():
        leaves |= _leaves(child, f"{prefix}{key}.") if isinstance(child, dict) else {f"{prefix}{key}": child}
    return leaves
