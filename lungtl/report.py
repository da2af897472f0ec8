"""`python -m lungtl.report sweep=FOLDER`: compare the runs of a sweep, on a page and in tables."""

from __future__ import annotations

import logging

from lungtl.settings import command_line
from lungtl.settings.schema import ReportConfig

log = logging.getLogger(__name__)


def run(config: ReportConfig) -> None:
    """Write the report, and print its folder."""
    from lungtl.sweeps.report.finished import find_sweep
    from lungtl.sweeps.report.upload import upload
    from lungtl.sweeps.report.write import print_table, run_table, write_report

    sweep = find_sweep(config.sweep, config.data_dir)
    files = write_report(sweep, config.out, config.title)
    if config.out is None:
        upload(files, sweep, config.tracking, config.data_dir)
    page = files[0]
    print_table(run_table(sweep))
    log.info("open %s in a browser", page)
    print(page.parent)


if __name__ == "__main__":
    command_line.main("report", ReportConfig, run)
