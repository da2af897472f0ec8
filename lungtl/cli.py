"""What every command does around its work: compose and check the config, run it, say what went wrong in a line.

The check happens before Hydra starts a job and before torch is imported, for every value of a sweep.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from lungtl.allocator import keep_freed_memory
from lungtl.errors import LungtlError, UsageError
from lungtl.nearest import nearest
from lungtl.resuming import check_settings

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

    from lungtl.config import Strict

log = logging.getLogger(__name__)
C = TypeVar("C", bound="Strict")
STAMP = "LUNGTL_STAMP"  # names this command's run folder; inherited by the jobs of a sweep
MULTIRUN = {"-m", "--multirun"}
INFORMATION_FLAGS = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i",
                     "--shell-completion", "-sc"}  # fmt: skip


def conf_dir() -> Path:
    """The folder of the configs: inside an installed package, beside the package in a checkout."""
    package = Path(__file__).parent
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def searchpath() -> str:
    """The override that lets Hydra find `experiments=`."""
    return f"hydra.searchpath=['file://{conf_dir().parent}']"


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
    try:
        if not INFORMATION_FLAGS & set(arguments):
            overrides = [a for a in arguments if not a.startswith("-")]
            earlier = _earlier_run(overrides)
            if earlier is not None:
                if MULTIRUN & set(arguments):
                    raise UsageError("resume= goes on with one run; leave -m out (a sweep goes on by its sweep.name)")
                arguments = _resumed(arguments, overrides, earlier)
            overrides = [a for a in arguments if not a.startswith("-")]
            check(config_name, schema, overrides, searchpath())
            if earlier is not None:  # now: Hydra writes the new config over the run's
                check_settings(earlier, [*overrides, searchpath()])
    except UsageError as error:
        fail(error)
    # beside the other overrides, for the same reason: `train dataset=x --cfg job`
    place = next((i for i, argument in enumerate(arguments) if _is_override(argument)), len(arguments))
    sys.argv[1:] = [*arguments[:place], searchpath(), *arguments[place:]]

    import hydra

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


def check(config_name: str, schema: type[C], overrides: list[str], searchpath: str) -> None:
    """Compose and validate a command line; for a sweep, every value that is swept.

    Raises:
        UsageError: the first thing that is wrong, with the nearest right one.
    """
    from hydra import compose, initialize_config_dir
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UsageError(f"{_first_line(error)}; overrides are written key=value") from error
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for lines, variant in _variants(parsed):
            _check_names(config_name, variant, searchpath)
            try:
                composed = compose(config_name, [*lines, searchpath])
            except HydraException as error:
                raise UsageError(_first_line(error)) from error
            validate(schema, composed)


def validate(schema: type[C], composed: DictConfig) -> C:
    """A composed config as its typed form; raises UsageError for the first wrong value."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from pydantic import ValidationError

    from lungtl.plugins import describe

    missing = sorted(OmegaConf.missing_keys(composed))
    if missing:
        raise UsageError(f"{missing[0]} is missing; add {missing[0]}=VALUE to the command")
    try:
        plain = OmegaConf.to_container(composed, resolve=True)
    except OmegaConfBaseException as error:
        raise UsageError(_first_line(error)) from error
    try:
        return schema.model_validate(plain)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"] if str(part).isidentifier() and "[" not in str(part))
        if first["type"] == "extra_forbidden":
            raise UsageError(f"unknown key {key}; {nearest(key, _dotted(plain, without=key))}") from error
        raise UsageError(describe(key, first)) from error


def _variants(parsed: list[Override]) -> Iterator[tuple[list[str], list[Override]]]:
    """Command lines without sweeps: the first value of each, then every further value of one at a time."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    choices = [
        [f"{o.get_key_element()}={value}" for value in _swept(o)] if o.is_sweep_override() else [str(o.input_line)]
        for o in parsed
    ]
    first = [options[0] for options in choices]
    lines = [first] + [
        [*first[:i], option, *first[i + 1 :]] for i, options in enumerate(choices) for option in options[1:]
    ]
    for line in lines:
        yield line, OverridesParser.create().parse_overrides(line)


def _swept(override: Override) -> list[str]:
    """The values of a sweep; of an interval, from which a search chooses, its ends."""
    if override.is_interval_sweep():
        interval: Any = override.value()
        return [str(interval.start), str(interval.end)]
    return list(override.sweep_string_iterator())


def _check_names(config_name: str, overrides: list[Override], searchpath: str) -> None:
    """Every override names an existing group option or key; raises UsageError with the nearest one."""
    from hydra import compose
    from omegaconf import OmegaConf

    plain = compose(config_name, [searchpath], return_hydra_config=True)
    groups = [group for group in plain.hydra.runtime.choices if not group.startswith("hydra/")]
    own = [o for o in overrides if not o.key_or_group.startswith("hydra")]
    chosen = []
    for override in own:
        key, value = override.key_or_group, override.value()
        if key in groups and value is not None and not override.is_delete():
            options = _options(key)
            if str(value) not in options:
                raise UsageError(f"{key}={value}: no such option; {nearest(str(value), options)}")
            chosen.append(str(override.input_line))
    known = _dotted(OmegaConf.to_container(compose(config_name, [*chosen, searchpath])))
    for override in own:
        key = override.key_or_group
        if key not in groups and key not in known and not override.is_add() and not override.is_force_add():
            raise UsageError(f"unknown key {key}; {nearest(key, {*known, *groups})}")


def _options(group: str) -> list[str]:
    folder = conf_dir().parent if group == "experiments" else conf_dir()
    return sorted(path.stem for path in (folder / group).glob("*.yaml"))


def _dotted(value: Any, prefix: str = "", without: str = "") -> list[str]:
    """All keys of a nested mapping, dotted."""
    if not isinstance(value, dict):
        return []
    keys = []
    for key, child in value.items():
        name = f"{prefix}{key}"
        if name != without and key != "_target_":
            keys += [name, *_dotted(child, f"{name}.")]
    return keys


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _earlier_run(overrides: list[str]) -> Path | None:
    """The folder of the run that `resume=RUN` names."""
    from lungtl.runs import data_dir_of, find_run

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


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def fail(error: LungtlError) -> NoReturn:
    """Say what went wrong in a line, and end the command."""
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
    sys.exit(error.exit_code)
