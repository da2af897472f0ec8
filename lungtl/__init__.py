"""lungtl: how ImageNet features transfer to chest CT, slice by slice, scan by scan.

The Python API is small: compose a config, open its store, run it, load what it trained.

    config = lungtl.compose(["dataset=phantom", "aggregator=mean"])
    result = lungtl.run(config)
    model = lungtl.load(result.folder)
    prediction = model.predict(volume_hu, spacing_mm=(2.5, 0.7, 0.7))

Importing this package costs nothing: heavy libraries are imported where they are used.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.settings.version import VERSION

if TYPE_CHECKING:
    from lungtl.data.store.reader import Store
    from lungtl.runs.experiment import Result
    from lungtl.runs.model import Model
    from lungtl.settings.schema import DatasetConfig, TrainConfig

__version__ = VERSION
__all__ = ["__version__", "compose", "load", "open_store", "run"]


def compose(overrides: Sequence[str] = ()) -> TrainConfig:
    """The config of a training run, checked.

    Args:
        overrides: as on the command line of `lungtl train`, e.g. ["aggregator=max", "optimizer.lr=3e-4"].

    Raises:
        lungtl.settings.errors.UsageError: an unknown key or option, or a wrong value.
    """
    from lungtl.settings.composing import compose_config
    from lungtl.settings.schema import TrainConfig

    return compose_config("train", TrainConfig, list(overrides))


def open_store(config: DatasetConfig) -> Store:
    """The prepared dataset that a config names; prepares it if it is missing.

    Raises:
        lungtl.settings.errors.LungtlError: the dataset cannot be read, or holds nothing usable.
    """
    from lungtl.data.store.opening import open_store as open_prepared

    return open_prepared(config)


def run(config: TrainConfig, folder: Path | str | None = None) -> Result:
    """Train, evaluate on held-out patients, and track, as `lungtl train` does.

    Args:
        config: of `compose`.
        folder: of the run, new or empty; None makes one in the config's data_dir.

    Returns:
        Metrics, predictions and the run's folder.

    Raises:
        lungtl.settings.errors.LungtlError: the data do not allow the run, or training found no usable epoch.
    """
    from lungtl.tracking.observer import run_tracked

    return run_tracked(config, None if folder is None else Path(folder))


def load(reference: Path | str, *, accelerator: str = "cpu", trust: str | Collection[str] = ()) -> Model:
    """A trained model: a run's folder, its bundle, or the run's MLflow id.

    Args:
        reference: what to load; an MLflow id is looked up in the default data_dir.
        accelerator: auto, cpu, gpu or mps.
        trust: packages outside lungtl whose classes the bundle may name.

    Raises:
        lungtl.settings.errors.LungtlError: there is no such model, it is damaged, or names a class that is not trusted.
    """
    from lungtl.runs.folder import data_dir_of, find_model
    from lungtl.runs.model import Model

    return Model.open(find_model(str(reference), data_dir_of([])), accelerator, trust)
