"""Imported by the clean process that forks commands: what each of them would otherwise do once more."""

from importlib import import_module

from lungtl.sources.phantom import PhantomRecipe, choose_scans

for module in (
    "tests.hydra_once", "captum.attr", "hydra.main", "matplotlib.pyplot", "mlflow.store.tracking.sqlalchemy_store",
    "pandas", "pyarrow.dataset", "scipy.stats", "sklearn.metrics", "lungtl.data.store.opening",
    "lungtl.models.backbones.timm_backbone", "lungtl.models.bag_classifier", "lungtl.runs.experiment",
    "lungtl.runs.resuming", "lungtl.runs.scored_bags", "lungtl.settings.command_line", "lungtl.sources.dicom",
    "lungtl.sources.phantom.source", "lungtl.sweeps.callback", "lungtl.sweeps.jobs", "lungtl.sweeps.search.pruning",
    "lungtl.tracking.observer",
):  # fmt: skip
    import_module(module)
choose_scans(PhantomRecipe(scans=4))  # clusters the nodules of LIDC-IDRI
