"""What every command does around its work: check the command line, run it, say what went wrong in a line."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from lungtl import __version__
from lungtl.settings.allocator import keep_freed_memory
from lungtl.settings.composing import (
    CONFIG_DIR_FLAGS,
    check,
    conf_dir,
    first_line,
    search_path,
    unused_options,
    user_folders,
    validate,
)
from lungtl.settings.errors import LungtlError, UsageError
from lungtl.settings.keys import STAMP as STAMP
from lungtl.settings.parts import make_importable
from lungtl.settings.resuming import check_settings

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from lungtl.settings.schema import Strict

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Strict")
MULTIRUN = {"-m", "--multirun"}
INFORMATION_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
                     "--shell-completion", "-sc"}  # fmt: skip


def main(config_name: str, schema: type[C], task: Callable[[C], float | None]) -> None:
    """Run a command: `task` gets the checked config; errors become one line and an exit code.

    Args:
        config_name: the primary config in conf/.
        schema: its typed form.
        task: the work; runs once, or once for every job of a sweep, which may be told a number: what it is judged by.
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
            arguments += unused_options(config_name, _overrides(arguments), folders)
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
            return _job(schema, task, composed, single)
        except LungtlError as error:
            if single:
                fail(error)
            log.error("this job failed, the others go on: %s", error)
            raise LungtlError(str(error)) from error  # 1, whatever the job's own: the command was right

    try:
        _launch(job)
        _end_sweep("FINISHED")
    except LungtlError as error:  # of a sweep
        _end_sweep("FAILED")
        fail(error)
    except Exception as error:
        if not _end_sweep("FAILED"):
            if isinstance(error, HydraException):  # of a command line that was not checked: one with --cfg
                fail(UsageError(first_line(error)))
            raise
        log.exception("the sweep's launcher has stopped")
        fail(LungtlError(f"the launcher has stopped ({type(error).__name__}: {str(error).strip() or 'no reason'}); "
                         "the same command with its sweep.name goes on"))  # fmt: skip
    except KeyboardInterrupt:
        _end_sweep("KILLED")
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _job(schema: type[C], task: Callable[[C], float | None], composed: DictConfig, single: bool) -> float | None:
    """A command's work; that of a sweep's child as its folder's state wants it."""
    from hydra.core.hydra_config import HydraConfig

    def work() -> float | None:
        return task(validate(schema, composed))

    hydra = HydraConfig.get()
    folder = Path(hydra.runtime.output_dir)
    if "sweep" not in hydra.callbacks or composed.dry_run:
        return work()

    from lungtl.sweeps.child import resume_child, run_child
    from lungtl.sweeps.state import STATUS, State

    if single:
        return resume_child(folder, work) if (folder / STATUS).is_file() else work()
    started = State("running", hydra.job.num, tuple(hydra.overrides.task), composed.trainer.monitor)
    return run_child(folder, started, work, retry=composed.sweep.retry)


def plain(command: Callable[[], None]) -> None:
    """Run a command without a config; errors become one line and an exit code."""
    try:
        command()
    except LungtlError as error:
        fail(error)


def _launch(job: Callable[[], None]) -> None:
    """Run the job, or those of a sweep, whose launcher is started again while that gets them further."""
    while True:
        try:
            return job()
        except LungtlError:
            raise
        except Exception as error:
            module = sys.modules.get("lungtl.sweeps.launched")
            if module is None or not module.launch_again(error):
                raise


def _end_sweep(status: str) -> bool:
    """Close what `lungtl.sweeps.launched` opened in this process; whether there was a sweep."""
    module = sys.modules.get("lungtl.sweeps.launched")
    return module is not None and bool(module.end_sweep(status))


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
