"""Which extra of this package installs a launcher or sweeper."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

from lungtl.settings.errors import UsageError

EXTRAS = {
    "hydra_plugins.hydra_joblib_launcher": ("joblib", "hydra_plugins.hydra_joblib_launcher"),
    "hydra_plugins.hydra_submitit_launcher": ("submitit", "hydra_plugins.hydra_submitit_launcher"),
    "hydra_plugins.hydra_ray_launcher": ("ray", "hydra_plugins.hydra_ray_launcher"),
    "hydra_plugins.lungtl_optuna": ("optuna", "optuna"),
}
"""Package of the plugin -> the extra, and a module that it installs."""


def check_installed(target: str) -> None:
    """Raise UsageError, naming the extra to install, if the launcher or sweeper with this `_target_` is missing."""
    package = ".".join(target.split(".")[:2])
    extra, module = EXTRAS.get(package, ("", "hydra"))
    if find_spec(module) is None:
        raise UsageError(f"{target.rpartition('.')[2]} is not installed; pip install 'lungtl[{extra}]'")
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UsageError("hydra/launcher=slurm: srun not found; start the sweep on a Slurm node, or use slurm_local")
