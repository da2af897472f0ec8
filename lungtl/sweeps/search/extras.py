"""Which extra of this package brings what a launcher or sweeper needs."""

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
"""Package of the plugin -> the extra, and the module that comes with it."""


def check_installed(target: str) -> None:
    """Raise UsageError, with what to install, where the plugin that a config names is not there.

    Args:
        target: `_target_` of a launcher or sweeper.
    """
    package = ".".join(target.split(".")[:2])
    extra, module = EXTRAS.get(package, ("", "hydra"))
    if find_spec(module) is None:
        raise UsageError(f"{target.rpartition('.')[2]} is not installed; pip install 'lungtl[{extra}]'")
    if target.endswith(".SlurmLauncher") and shutil.which("srun") is None:
        raise UsageError(
            "hydra/launcher=slurm: this machine has no srun; start the sweep where Slurm is, or give "
            "hydra/launcher=slurm_local"
        )
