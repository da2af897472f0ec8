"""What every command does around its work: check the command line, run it, print errors as one line."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, TypeVar

from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.checks import check, validate
from lungtl.settings.composing import part_targets, unused_options
from lungtl.settings.credentials import hide_password
from lungtl.settings.errors import REMEDIES, LungtlError, UsageError, first_line, system_error
from lungtl.settings.folders import CONFIG_DIR_FLAGS, conf_dir, search_path, user_folders
from lungtl.settings.help import help_text
from lungtl.settings.keys import STAMP as STAMP
from lungtl.settings.parent_process import follow_named_parent
from lungtl.settings.parts import make_importable
from lungtl.settings.text import make_data_dir_absolute, quote_text
from lungtl.settings.typed import remember_command
from lungtl.settings.version import VERSION

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lungtl.settings.sections import Strict

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Strict")
MULTIRUN = {"-m", "--multirun"}
EXCLUSIVE_FLAGS = (
    ("--multirun", "-m"),
    ("--run", "-r"),
    ("--cfg", "-c"),
    ("--info", "-i"),
    ("--shell-completion", "-sc"),
)
INFO = ("all", "config", "defaults", "defaults-tree", "plugins", "searchpath")
INFORMATION_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
                     "--shell-completion", "-sc"}  # fmt: skip
FLAGS_WITH_VALUE = {*CONFIG_DIR_FLAGS, "--config-path", "-cp", "--config-name", "-cn", "--cfg", "-c", "--package", "-p",
                    "--info", "-i"}  # fmt: skip


class Jobs(Protocol):
    """What a command that can be swept does around its jobs; a module can be one."""

    def run_job(
        self, folder: Path, composed: DictConfig, work: Callable[[], float | None], single: bool
    ) -> float | None:
        """Do a job's work as the state of its folder asks: run, resume, retry or skip it."""

    def relaunch(self, error: Exception) -> bool:
        """True if the launcher, which this error stopped, should be started once more."""

    def end(self, status: str) -> bool:
        """Close the sweep of this process; True if there was one."""


def main(
    config_name: str,
    schema: type[C],
    task: Callable[[C], float | None],
    *,
    expand: Callable[[list[str]], list[str]] | None = None,
    jobs: Jobs | None = None,
) -> None:
    """Run a command: `task` gets the checked config; errors become one line and an exit code.

    Args:
        config_name: the primary config in conf/.
        schema: its typed form.
        task: the work; runs once, or once for every job of a sweep, and then may return what the job is judged by.
        expand: rewrites the command line before it is checked.
        jobs: of a command that can be swept.
    """
    follow_named_parent()
    os.environ.setdefault(STAMP, f"{datetime.now():%Y%m%d-%H%M%S}-{secrets.token_hex(2)}")
    remember_command(config_name, sys.argv[1:])
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions come back to us instead of Hydra's own report
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"lungtl {VERSION}")
        return
    make_importable(Path.cwd())
    information = bool(INFORMATION_FLAGS & set(arguments))
    with errors_in_one_line():
        make_data_dir_absolute()
        arguments = _hydra_flags(arguments)
        folders = user_folders(arguments)
        overrides = overrides_of(arguments)
        if {"--help", "-h"} & set(arguments):
            width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
            print(help_text(config_name, overrides, folders, width))
            return
        arguments = quote_text(arguments, schema, lambda: part_targets(config_name, overrides, folders))
        if expand is not None and not information:
            arguments = expand(arguments)
        if not information:
            arguments += unused_options(config_name, overrides_of(arguments), folders)
            check(config_name, schema, overrides_of(arguments), bool(MULTIRUN & set(arguments)), folders)
    # Hydra's argparse takes all overrides in one go: it would not understand `train dataset=x -m seed=0,1`. Flags come
    # last, so that one without its value takes no override for it.
    flags, overrides = flags_and_overrides(arguments)
    sys.argv[1:] = [search_path(folders), *overrides, *flags]

    import hydra
    from hydra.errors import HydraException

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)
    def job(composed: DictConfig) -> float | None:
        return _run(schema, task, composed, jobs)

    end: Callable[[str], bool] = (lambda _: False) if jobs is None else jobs.end
    try:
        _launch(job, jobs)
        end("FINISHED")
    except LungtlError as error:  # of a sweep
        end("FAILED")
        fail(error)
    except OSError as error:
        end("FAILED")
        if isinstance(error, HydraException):  # no such option, of a command line that was not checked
            fail(UsageError(first_line(error)))
        _fail_system(error)
    except Exception as error:
        if not end("FAILED"):
            if isinstance(error, HydraException):  # of a command line that was not checked: one with --cfg
                fail(UsageError(first_line(error)))
            raise
        log.exception("the sweep's launcher failed")
        fail(LungtlError(f"the launcher failed ({type(error).__name__}: {str(error).strip() or 'no reason'}); "
                         "rerun the same command with its sweep.name to resume"))  # fmt: skip
    except KeyboardInterrupt as interrupt:
        if not end("KILLED"):
            print(str(interrupt) or "stopped", file=sys.stderr)
        sys.exit(130)


def plain(command: Callable[[], None]) -> None:
    """Run a command without a config; errors become one line and an exit code."""
    with errors_in_one_line():
        make_data_dir_absolute()
        command()


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the command with one line and an exit code at an error that the user can act on."""
    try:
        yield
    except LungtlError as error:
        fail(error)
    except OSError as error:
        _fail_system(error)


def fail(error: LungtlError) -> NoReturn:
    """Print an error as one line, and end the command with its exit code."""
    print(f"error: {hide_password(' '.join(str(error).split()))}", file=sys.stderr)
    sys.exit(error.exit_code)


def _fail_system(error: OSError) -> NoReturn:
    """End the command with one line if the user can change what the system refused; raise anything else."""
    if error.errno not in REMEDIES:
        raise error
    fail(system_error(error))


def overrides_of(arguments: list[str]) -> list[str]:
    """The overrides among a command line's arguments, without flags and their values."""
    return flags_and_overrides(arguments)[1]


def flags_and_overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """A command line's flags, each with its value, and its overrides."""
    flags: list[str] = []
    overrides: list[str] = []
    for before, argument in zip(["", *arguments], arguments, strict=False):
        (flags if argument.startswith("-") or before in FLAGS_WITH_VALUE else overrides).append(argument)
    return flags, overrides


def _run(schema: type[C], task: Callable[[C], float | None], composed: DictConfig, jobs: Jobs | None) -> float | None:
    """Run one job; in a sweep its error is raised for the launcher, otherwise it ends the command."""
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    follow_named_parent()  # a worker of a launcher begins here
    keep_freed_memory()
    single = HydraConfig.get().mode == RunMode.RUN
    try:
        if jobs is None:
            return task(validate(schema, composed))
        folder = Path(HydraConfig.get().runtime.output_dir)
        return jobs.run_job(folder, composed, lambda: task(validate(schema, composed)), single)
    except OSError as error:
        if not single:
            raise
        _fail_system(error)
    except LungtlError as error:
        if single:
            fail(error)
        log.error("this run failed, the sweep continues: %s", error)
        raise LungtlError(str(error)) from error  # exit code 1, whatever the job's own: the command was right


def _launch(job: Callable[[], None], jobs: Jobs | None) -> None:
    """Run the job, or those of a sweep, whose launcher is restarted as long as that makes progress."""
    while True:
        try:
            return job()
        except LungtlError:
            raise
        except Exception as error:
            if jobs is None or not jobs.relaunch(error):
                raise


def _hydra_flags(arguments: list[str]) -> list[str]:
    """The arguments, with `--info` alone as `--info=all`; raises UsageError for flags that exclude each other."""
    given = [flags[0] for flags in EXCLUSIVE_FLAGS if any(one.partition("=")[0] in flags for one in arguments)]
    if len(given) > 1:
        raise UsageError(f"{given[0]} and {given[1]} exclude each other; omit one of them")
    following = [*arguments[1:], ""]
    return [
        "--info=all" if one in ("--info", "-i") and after not in INFO else one
        for one, after in zip(arguments, following, strict=False)
    ]
