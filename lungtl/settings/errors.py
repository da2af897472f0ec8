"""Errors with a one-line message: the thing, the value seen, what is expected, what to do next."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class LungtlError(Exception):
    """A failure that the user can act on; the command line prints it as one line and exits with 1."""

    exit_code = 1


class UsageError(LungtlError):
    """The command itself is wrong (an unknown key, a missing option); exits with 2."""

    exit_code = 2


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
