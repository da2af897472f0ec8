"""Which code and which packages computed a run: `environment.json` in its folder."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from lungtl.settings.version import VERSION

log = logging.getLogger(__name__)
ENVIRONMENT = "environment.json"
PACKAGES = (
    "hydra-core", "mlflow", "numpy", "pandas", "pydicom", "pylidc", "pytorch-lightning", "scikit-learn", "scipy",
    "timm", "torch", "torchmetrics", "torchvision",
)  # fmt: skip
OPTIONAL = ("captum", "peft", "torchmil")
"""Of extras that decide numbers where they are used."""


def commit_of(root: Path) -> tuple[str, bool] | None:
    """The checkout's commit, and whether tracked files differ from it; None where there is no checkout."""
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        # a run that is killed while git holds its optional lock would leave the lock behind
        changed = _git(root, "--no-optional-locks", "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.SubprocessError) as error:
        log.warning("the git commit is not recorded (%s)", error)
        return None
    return commit, bool(changed)


def own_commit() -> tuple[str, bool] | None:
    """The commit of the checkout that this code runs from; None for an installed package."""
    return commit_of(Path(__file__).parents[2])


def environment(device: str) -> dict[str, Any]:
    """What besides config and data decides a run's numbers.

    Args:
        device: what it computes on, e.g. cpu, or a GPU's name.

    Returns:
        name -> version; null for an extra that is not installed, and for the commit of an installed lungtl.
    """
    commit, changed = own_commit() or (None, None)
    return {
        "lungtl": VERSION,
        "commit": commit,
        "changed": changed,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "device": device,
        **{name: metadata.version(name) for name in PACKAGES},
        **{name: _installed(name) for name in OPTIONAL},
    }


def write_environment(folder: Path, device: str) -> None:
    """Write `environment.json`."""
    (folder / ENVIRONMENT).write_text(json.dumps(environment(device), indent=2), encoding="utf-8")


def differences(earlier: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(name, then, now) of what is not the same, sorted by name."""
    names = sorted(earlier.keys() | now.keys())
    return [(n, str(earlier.get(n)), str(now.get(n))) for n in names if earlier.get(n) != now.get(n)]


def several(environments: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """What is not the same in all environments: name -> value, as text, -> in how many; sorted by name."""
    names = sorted({name for one in environments for name in one})
    counts = {name: Counter(str(one.get(name)) for one in environments) for name in names}
    return {name: dict(count) for name, count in counts.items() if len(count) > 1}


def _installed(name: str) -> str | None:
    """A package's version; None where it is missing."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _git(root: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout.strip()
