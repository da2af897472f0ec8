"""What Hydra would otherwise do once more for each command and each composed config."""

from __future__ import annotations

import pickle  # several times faster than deepcopy
from functools import cache
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

import lungtl
from lungtl.settings.folders import conf_dir

HYDRA_CONF = "hydra.conf"


def parse_once(scheme: str, place: str) -> None:
    """Parse each config of a place, a folder or a package, once; Hydra changes what it gets."""
    source: Any = SourcesRegistry.instance().resolve(scheme)
    load = source.load_config
    parsed = cache(lambda provider, name: pickle.dumps(load(source(provider, f"{scheme}://{place}"), name)))

    def load_config(self: Any, config_path: str) -> ConfigResult:
        kept = self.path == place
        result: ConfigResult = pickle.loads(parsed(self.provider, config_path)) if kept else load(self, config_path)  # noqa: S301
        return result

    source.load_config = load_config


Plugins.instance()  # imports the launchers and sweepers, and the sources of configs, anew
parse_once("file", str(conf_dir()))
parse_once("pkg", HYDRA_CONF)
lungtl.compose(["dataset=phantom"])  # what the parser of overrides learns
