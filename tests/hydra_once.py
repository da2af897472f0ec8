"""What Hydra would otherwise do once more for each command and each composed config."""

from copy import deepcopy
from functools import cache

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.plugins import Plugins
from hydra.plugins.config_source import ConfigResult

import lungtl
from lungtl.settings.folders import conf_dir

_load = FileConfigSource.load_config
_loaded = cache(lambda provider, folder, name: _load(FileConfigSource(provider, folder), name))


def _load_config(self: FileConfigSource, config_path: str) -> ConfigResult:
    """A file of conf/ is parsed once; Hydra changes what it gets."""
    if self.path != str(conf_dir()):
        return _load(self, config_path)
    result: ConfigResult = deepcopy(_loaded(self.provider, self.path, config_path))
    return result


FileConfigSource.load_config = _load_config  # type: ignore[method-assign]

Plugins.instance()  # imports the launchers and sweepers
lungtl.compose(["dataset=phantom"])  # what the parser of overrides learns
