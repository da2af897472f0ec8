"""Which settings of a run stay as they were when it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lungtl.settings.errors import UsageError

FIXED = ("backbone", "freezing", "aggregator", "loss", "image", "head", "split", "optimizer", "seed",
         "trainer.accumulate", "trainer.batch_size", "trainer.bucket", "trainer.clip_norm", "trainer.ema",
         "trainer.limit_batches", "trainer.monitor", "trainer.precision", "trainer.sampler")  # fmt: skip
"""Sections and keys. The optimiser's state comes from the checkpoint, the best epoch is judged by one value, and the
rest makes another network or other data; a changed one would be recorded and not, or not from the start, obeyed."""
FILE = "backbone.weights"
"""May have moved: its content is compared later."""


def check_settings(earlier: Path, overrides: list[str], config_name: str = "train") -> None:
    """Hold a command line against the run that it resumes.

    Args:
        earlier: the run's folder, as Hydra has left it.
        overrides: of the command, the run's own among them; checked.
        config_name: the primary config in conf/.

    Raises:
        UsageError: a setting has changed that may not.
    """
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from lungtl.settings.composing import conf_dir

    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        composed = compose(config_name, overrides)
    then, now = (
        _leaves(OmegaConf.to_container(config)) for config in (OmegaConf.load(earlier / ".hydra/config.yaml"), composed)
    )
    for key in sorted(then.keys() | now.keys()):
        was, given = then.get(key, "not set"), now.get(key, "not set")
        if was != given and key != FILE and any(f"{key}.".startswith(f"{fixed}.") for fixed in FIXED):
            raise UsageError(f"cannot resume: {key} was {was}, now it is {given}; leave it out or start a new run")


def _leaves(value: Any, prefix: str = "") -> dict[str, Any]:
    """A nested mapping's values by their dotted keys."""
    leaves: dict[str, Any] = {}
    for key, child in value.items():
        leaves |= _leaves(child, f"{prefix}{key}.") if isinstance(child, dict) else {f"{prefix}{key}": child}
    return leaves
