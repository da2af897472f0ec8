"""What every command does around its work: check the command line, run it, say what went wrong in a line."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

from lungtl import __version__
from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.composing import (
    CONFIG_DIR_FLAGS,
    check,
    conf_dir,
    first_line,
    search_path,
    user_folders,
    validate,
)
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.parts import make_importable
from lungtl.settings.resuming import check_settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lungtl.settings.schema import Strict

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Strict")
STAMP = "LUNGTL_STAMP"  # names this command's run folder; inherited by the jobs of a sweep
MULTIRUN = {"-m", "--multirun"}
INFORMATION_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
                     "--shell-completion", "-sc"}  # fmt: skip


class Jobs(Protocol):
    """Runs the jobs of sweeps, see `lungtl.sweeps.jobs`."""

    def run_job(
        self, folder: Path, composed: DictConfig, work: Callable[[], float | None], single: bool
    ) -> float | None:
        """Do the work as the folder's state asks: run, skip, resume, retry."""

    def relaunch(self, error: Exception) -> bool:
        """Whether to start the launcher once more."""

    def end(self, status: str) -> bool:
        """Close the sweep; whether there was one."""


def main(config_name: str, schema: type[C], task: Callable[[C], float | None], jobs: Jobs | None = None) -> None:
    """Run a command: `task` gets the checked config; errors become one line and an exit code.

    Args:
        config_name: the primary config in conf/.
        schema: its typed form.
        task: the work; runs once, or once for every job of a sweep; returns the value that a search compares.
        jobs: runs the jobs of sweeps; None runs each job as it comes.
    """
    os.environ.setdefault(STAMP, f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come back to us instead of Hydra's own report
    # argparse takes positional arguments in one go: `train dataset=x -m seed=0,1` would not be understood
    arguments = sorted(sys.argv[1:], key=lambda argument: argument not in MULTIRUN)
    if "--version" in arguments:
        print(f"lungtl {__version__}")
        return
    make_importable(Path.cwd())
    try:
        folders = user_folders(arguments)
        if not INFORMATION_FLAGS & set(arguments):
            overrides = _overrides(arguments)
            earlier = _earlier_run(overrides)
            if earlier is not None:
                if MULTIRUN & set(arguments):
                    raise UsageError("resume= goes on with one run; leave -m out (a sweep goes on by its sweep.name)")
                arguments = _resumed(arguments, overrides, earlier)
            overrides = _overrides(arguments)
            check(config_name, schema, overrides, bool(MULTIRUN & set(arguments)), folders)
            if earlier is not None:  # now: Hydra writes the new config over the run's
                check_settings(earlier, [*overrides, search_path(folders)])
    except UsageError as error:
        fail(error)
    # beside the other overrides, for the same reason: `train dataset=x --cfg job`
    place = next((i for i, argument in enumerate(arguments) if _is_override(argument)), len(arguments))
    sys.argv[1:] = [*arguments[:place], search_path(folders), *arguments[place:]]

    import hydra
    from hydra.errors import HydraException

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
    def job(composed: DictConfig) -> float | None:
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        keep_freed_memory()
        single = HydraConfig.get().mode == RunMode.RUN
        try:
            if jobs is None:
                return task(validate(schema, composed))
            folder = Path(HydraConfig.get().runtime.output_dir)
            return jobs.run_job(folder, composed, lambda: task(validate(schema, composed)), single)
        except LungtlError as error:
            if single:
                fail(error)
            log.error("this run failed; the other runs continue: %s", error)
            raise LungtlError(str(error)) from error  # 1, whatever the job's own: the command was right

    def end(status: str) -> bool:
        return jobs is not None and jobs.end(status)

    try:
        _launch(job, jobs)
        end("FINISHED")
    except LungtlError as error:  # of a sweep
        end("FAILED")
        fail(error)
    except Exception as error:
        if not end("FAILED"):
            if isinstance(error, HydraException):  # of a command line that was not checked: one with --cfg
                fail(UsageError(first_line(error)))
            raise
        log.exception("the sweep's launcher has stopped")
        fail(LungtlError(f"the launcher has stopped ({type(error).__name__}: {str(error).strip() or 'no reason'}); "
                         "rerun the same command with its sweep.name to resume"))  # fmt: skip
    except KeyboardInterrupt:
        end("KILLED")
        print("stopped", file=sys.stderr)
        sys.exit(130)


def plain(command: Callable[[], None]) -> None:
    """Run a command without a config; errors become one line and an exit code."""
    try:
        command()
    except LungtlError as error:
        fail(error)


def _launch(job: Callable[[], None], jobs: Jobs | None) -> None:
    """Run the job, or those of a sweep, whose launcher is started again while that makes progress."""
    while True:
        try:
            return job()
        except LungtlError:
            raise
        except Exception as error:
            if jobs is None or not jobs.relaunch(error):
                raise


def _overrides(arguments: list[str]) -> list[str]:
    values = {i + 1 for i, argument in enumerate(arguments) if argument in CONFIG_DIR_FLAGS}
    return [a for i, a in enumerate(arguments) if i not in values and not a.startswith("-")]


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _earlier_run(overrides: list[str]) -> Path | None:
    """The folder of the run that `resume=RUN` names."""
    from lungtl.runs.folder import data_dir_of, find_run

    wanted = [o.partition("=")[2].strip("'\"") for o in overrides if o.startswith("resume=")]
    if not wanted or not wanted[0] or wanted[0] == "null":
        return None
    return find_run(wanted[0], data_dir_of(overrides))


def _resumed(arguments: list[str], overrides: list[str], folder: Path) -> list[str]:
    """A run's own overrides and its folder, the new ones winning."""
    from omegaconf import OmegaConf

    earlier = [str(line) for line in OmegaConf.load(folder / ".hydra" / "overrides.yaml")]
    named = {o.partition("=")[0].lstrip("+~") for o in overrides}
    kept = [line for line in earlier if line.partition("=")[0].lstrip("+~") not in named]
    return [*kept, *arguments, f"hydra.run.dir='{folder}'"]


def fail(error: LungtlError) -> NoReturn:
    """Say what went wrong in a line, and end the command."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(error.exit_code)
