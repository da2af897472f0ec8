"""A run on a small phantom, set up by `lungtl train`'s own functions up to the start of training."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import lungtl
from lungtl.data.store.opening import open_store
from lungtl.settings import parts

if TYPE_CHECKING:
    from lungtl.data.bags import Features
    from lungtl.data.store.reader import Store
    from lungtl.settings.schema import TrainConfig
    from lungtl.training.datamodule import BagDataModule
    from lungtl.training.module import BagModule

SCANS = 12
RANDOM = "backbone.weights=none"  # works offline; speed does not depend on the weights


def composed(data_dir: Path, *overrides: str) -> TrainConfig:
    """The config of `lungtl train data_dir=... dataset.scans=12 tracking=none OVERRIDES`."""
    return lungtl.compose([f"data_dir={data_dir}", f"dataset.scans={SCANS}", "tracking=none", *overrides])


class Setting:
    """A run that is ready to train.

    Args:
        data_dir: for the phantom, its store and the feature cache; settings share them.
        overrides: of the command line.

    Attributes:
        config: of the run.
        store: the phantom's.
        features: from the feature cache, computed now if needed; None if the run computes everything in each epoch.
        module: what Lightning trains.
        data: its loaders.
    """

    def __init__(self, data_dir: Path, *overrides: str) -> None:
        from lungtl.data.splits import split_bags
        from lungtl.training.build import build_classifier
        from lungtl.training.datamodule import BagDataModule
        from lungtl.training.devices import pick_device
        from lungtl.training.feature_cache import run_features
        from lungtl.training.fit import seed_everything
        from lungtl.training.module import BagModule

        config = self.config = composed(data_dir, *overrides)
        self.store: Store = open_store(config)
        seed_everything(config.seed)
        classifier = build_classifier(config, self.store.value_range)
        freezing = parts.build(config.freezing)
        freezing.adapt(classifier.backbone)
        self.device = pick_device(config.trainer.accelerator)
        self.features: Features | None = run_features(
            config, classifier, freezing, self.store, self.device, classifier.backbone.fingerprint()
        )
        self.module: BagModule = BagModule(
            classifier, freezing, parts.build(config.loss), config.optimizer, config.schedule, config.trainer.max_epochs
        )
        trains = not freezing.is_frozen(classifier.backbone)
        self.data: BagDataModule = BagDataModule(
            self.store, split_bags(self.store.bags, config.split), config, self.features, trains
        )

    def epoch(self) -> float:
        """Train as `lungtl train` does; seconds of the last epoch, including validation and checkpoint."""
        from lungtl.training.fit import fit

        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            fit(
                self.module, self.data, self.config.trainer, Path(folder),
                lambda metrics, epoch: ends.append(time.perf_counter()), resume=False,
            )  # fmt: skip
        return ends[-1] - ends[-2]
