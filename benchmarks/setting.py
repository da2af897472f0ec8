"""What `lungtl.train` sets up for a command line on a small phantom, up to where it would train."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from lungtl.data.store.opening import open_store
from lungtl.settings import composing, parts
from lungtl.settings.schema import TrainConfig

if TYPE_CHECKING:
    from lungtl.data.bags import Features
    from lungtl.data.store.reader import Store
    from lungtl.training.datamodule import BagDataModule
    from lungtl.training.module import BagModule

SCANS = 12
RANDOM = "backbone.weights=none"  # where no hub can be reached; speed does not depend on what was learned


def composed(data_dir: Path, *overrides: str) -> TrainConfig:
    """The config of `lungtl.train data_dir=... dataset.scans=12 tracking=none OVERRIDES`."""
    import hydra

    lines = [f"data_dir={data_dir}", f"dataset.scans={SCANS}", "tracking=none", *overrides, composing.search_path()]
    with hydra.initialize_config_dir(str(composing.conf_dir()), version_base="1.3"):
        return composing.validate(TrainConfig, hydra.compose("train", lines))


class Setting:
    """A run that is ready to train.

    Args:
        data_dir: gets the phantom, its store and the feature cache; settings share them.
        overrides: of the command line.

    Attributes:
        config: of the run.
        store: the phantom's.
        features: from the feature cache, filled now if need be; None where the run computes all of it in each epoch.
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
        """Train as `lungtl.train` does; seconds of the last epoch, its validation and checkpoint with it."""
        from lungtl.training.fit import fit

        ends: list[float] = []
        with tempfile.TemporaryDirectory() as folder:
            fit(
                self.module, self.data, self.config.trainer, Path(folder),
                lambda metrics, epoch: ends.append(time.perf_counter()), resume=False,
            )  # fmt: skip
        return ends[-1] - ends[-2]
