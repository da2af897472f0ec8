"""`python -m lungtl.export model=RUN output=FILE`: one file that computes the probability without lungtl."""

from __future__ import annotations

import logging

from lungtl.runs.folder import find_model
from lungtl.settings import command_line
from lungtl.settings.schema import ExportConfig

log = logging.getLogger(__name__)


def run(config: ExportConfig) -> None:
    """Export the model, and print the file's path."""
    folder = find_model(config.model, config.data_dir)
    from lungtl.export.write import SLICES, export
    from lungtl.runs.model import Model

    model = Model.open(folder, "cpu", config.trust or ())
    difference = export(model, config.format, config.output)
    scans = ", ".join(map(str, SLICES))
    log.info("largest difference from the model on random scans of %s slices: %.1g", scans, difference)
    log.info("%s, %.1f MB; not a medical device", config.format, config.output.stat().st_size / 1e6)
    print(config.output)


if __name__ == "__main__":
    command_line.main("export", ExportConfig, run)
