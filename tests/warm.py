"""Imported by the clean process of the lab: what each of its forks would otherwise do once more."""

from importlib import import_module

from hydra.core.plugins import Plugins

import lungtl
from lungtl.sources.phantom import PhantomRecipe, choose_scans

for module in (
    "captum.attr", "hydra.main", "matplotlib.pyplot", "mlflow.store.tracking.sqlalchemy_store", "pandas",
    "pyarrow.dataset", "scipy.stats", "sklearn.metrics", "lungtl.data.store.opening",
    "lungtl.models.backbones.timm_backbone", "lungtl.models.bag_classifier", "lungtl.runs.experiment",
    "lungtl.runs.resuming", "lungtl.runs.scored_bags", "lungtl.settings.command_line", "lungtl.sources.dicom",
    "lungtl.sources.phantom.source", "lungtl.sweeps.callback", "lungtl.sweeps.jobs", "lungtl.sweeps.search.pruning",
    "lungtl.tracking.observer",
):  # fmt: skip
    import_module(module)
Plugins.instance()  # imports the launchers and sweepers
lungtl.compose(["dataset=phantom"])  # what the parser of overrides learns
choose_scans(PhantomRecipe(scans=4))  # clusters the nodules of LIDC-IDRI
