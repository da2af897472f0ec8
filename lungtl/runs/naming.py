"""What a run is called: its choices, and what else was overridden."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from lungtl.runs.folder import read_yaml
from lungtl.settings.keys import meaning, override_key
from lungtl.settings.parts import TARGET

NAMED = ("dataset", "backbone", "freezing", "aggregator")
"""The config groups that a name states."""


def run_name(choices: Mapping[str, str], overrides: Iterable[str]) -> str:
    """The overrides that appear in names, then the four choices: narrow columns show how a name starts.

    Args:
        choices: of `actual_choices`.
        overrides: of the command line.
    """
    return " ".join([*shorten_overrides(line for line in overrides if not _is_stated(line, choices)),
                     *(choices[group] for group in NAMED)])  # fmt: skip


def _is_stated(override: str, choices: Mapping[str, str]) -> bool:
    """Whether the choices say what an override says: `backbone=x`, `backbone.name=x`, `aggregator._target_=mylab.X`."""
    key = override_key(override)
    group, _, option = key.partition(".")
    if group not in NAMED or (option not in ("", TARGET) and key != "backbone.name"):
        return False
    return not option or override.strip("'\"").endswith(choices[group])


def sweep_run_name(sweep: Path, overrides: Iterable[str]) -> str:
    """The overrides that vary within the run's sweep; empty if none does."""
    return " ".join(shorten_overrides(varying_overrides(sweep, overrides)))


def shorten_overrides(overrides: Iterable[str]) -> list[str]:
    """Shorten overrides for the run name; keys that do not belong there are dropped, and a file loses its folder."""
    kept = [line for line in overrides if not line.startswith("~") and meaning(override_key(line)).in_name]
    return [f"{k}={Path(v).name if '/' in v else v}" for k, _, v in (line.partition("=") for line in kept)]


def varying_overrides(sweep: Path, overrides: Iterable[str]) -> list[str]:
    """The overrides of a run that vary within its sweep."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    whole = sweep / "multirun.yaml"
    lines = list(map(str, read_yaml(whole)["hydra"]["overrides"]["task"])) if whole.is_file() else []
    parsed = [
        override for override in OverridesParser.create().parse_overrides(lines) if not override.is_sweep_override()
    ]
    # Hydra rewrites a job's values: `false` as `False`, `1e-3` as `0.001`
    shared = {*lines, *(f"{one.get_key_element()}={one.get_value_element_as_str()}" for one in parsed)}
    return [override for override in overrides if override not in shared]


def differing(names: list[str]) -> list[str]:
    """Names without the words that all share; unchanged if nothing differs."""
    words = [name.split() for name in names]
    shared = set(words[0]).intersection(*words)
    return [" ".join(w for w in own if w not in shared) or name for own, name in zip(words, names, strict=True)]
