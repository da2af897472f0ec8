"""Imported by clean processes that fork commands: what Hydra would otherwise do once more in each of them."""

from hydra.core.plugins import Plugins

import lungtl

Plugins.instance()  # imports the launchers and sweepers
lungtl.compose(["dataset=phantom"])  # what the parser of overrides learns
