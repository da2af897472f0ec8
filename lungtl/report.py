"""`python -m lungtl.report sweep=FOLDER`: the runs of a sweep compared, on a page and in tables."""

from __future__ import annotations

import logging

from lungtl.settings import command_line
from lungtl.settings.schema import ReportConfig

log = logging.getLogger(__name__)


def run(config: ReportConfig) -> None:
    """Compare the runs, and print the folder of the report."""
    from lungtl.sweeps.report.finished import find_sweep
    from lungtl.sweeps.report.write import collect, print_table, upload, write_report

    sweep = find_sweep(config.sweep, config.data_dir)
    written = write_report(sweep, config.out, config.title)
    if config.out is None:
        upload(written, sweep, config.tracking, config.data_dir)
    page = written[0]
    print_table(collect(sweep))
    log.info("open %s in a browser", page)
    print(page.parent)


if __name__ == "__main__":
    command_line.main("report", ReportConfig, run)
