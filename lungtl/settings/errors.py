"""Errors with a one-line message: the thing, the value seen, what is expected, what to do next."""

from __future__ import annotations

import errno
from pathlib import Path

NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
NO_ACCESS = {errno.EACCES, errno.EPERM, errno.EROFS}
NO_FOLDER = {errno.ENOTDIR, errno.EEXIST}
REMEDIES = {
    **dict.fromkeys(NO_SPACE, "free some space"),
    **dict.fromkeys(NO_ACCESS, "make the folder writable or set data_dir=FOLDER"),
    **dict.fromkeys(NO_FOLDER, "a part of the path is a file; set data_dir=FOLDER"),
    errno.ENAMETOOLONG: "use a shorter name or data_dir",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def system_error(error: OSError, path: Path | None = None) -> LungtlError:
    """What the operating system refused, as one line with a remedy.

    Args:
        error: as raised.
        path: what was to be written; None: the file that the error names.
    """
    remedy = REMEDIES.get(error.errno or 0, "check the disk and the path")
    what = f"cannot write {path}" if path is not None else f"cannot use {error.filename or 'a file'}"
    return LungtlError(
        f"{what} ({error.strerror or error}); {remedy}, then rerun the same command: finished work is kept"
    )


class LungtlError(Exception):
    """A failure that the user can act on; the command line prints it as one line and exits with 1."""

    exit_code = 1


class UsageError(LungtlError):
    """The command itself is wrong (an unknown key, a missing option); exits with 2."""

    exit_code = 2


class Incomplete(LungtlError):
    """Some inputs were refused, the others are done; exits with 3."""

    exit_code = 3


class Unreachable(LungtlError):
    """The tracking server cannot be reached at the moment; the run itself is fine."""


class Refused(LungtlError):
    """One item of a source cannot be used; it is listed in the store's quarantine, the others are still read.

    Args:
        reason: what is wrong with it, with the value seen.
        remedy: what the user can do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        # worker processes pickle this exception; the default would call __init__ with one argument
        return Refused, (self.reason, self.remedy)
