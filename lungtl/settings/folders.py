"""The folders of configs: lungtl's own, and those of the user."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lungtl.settings.errors import UsageError
from lungtl.settings.text import quoted

EXPERIMENTS = "experiments"
"""The config group whose options are in a folder next to conf/, and in the user's own."""
CONFIG_DIR_FLAGS = ("--config-dir", "-cd")


def conf_dir() -> Path:
    """The folder of lungtl's configs: inside an installed package, next to the package in a checkout."""
    package = Path(__file__).parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


def user_folders(arguments: Sequence[str]) -> list[Path]:
    """The folders in which a user's own configs are: that of `--config-dir`, and the current one if it has experiments.

    Args:
        arguments: of the command line, flags included.

    Raises:
        UsageError: the folder that `--config-dir` names does not exist.
    """
    folders = []
    for position, argument in enumerate(arguments):
        flag, equals, value = argument.partition("=")
        if flag not in CONFIG_DIR_FLAGS:
            continue
        named = value if equals else next(iter(arguments[position + 1 :]), "")
        folder = Path(named).expanduser().resolve()
        if not named or not folder.is_dir():
            raise UsageError(f"{flag}={named}: no such folder; give the folder that contains your config groups")
        folders.append(folder)
    if (Path.cwd() / EXPERIMENTS).is_dir():
        folders.append(Path.cwd())
    return folders


def option_files(group: str, folders: Sequence[Path] = ()) -> dict[str, Path]:
    """Option -> file of a config group: lungtl's, and those in `user_folders`."""
    places = (conf_dir(), conf_dir().parent, *folders)
    return {path.stem: path for place in reversed(places) for path in (place / group).glob("*.yaml")}


def search_path(folders: Sequence[Path] = ()) -> str:
    """The Hydra override that finds `experiments=` and the configs in `user_folders`."""
    paths = dict.fromkeys([conf_dir().parent, *folders])
    return f"hydra.searchpath=[{','.join(quoted(f'file://{path}') for path in paths)}]"
