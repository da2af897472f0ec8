"""What can go wrong, said in one line: the thing, the value seen, what was wanted, what to do next."""

from __future__ import annotations


class LungtlError(Exception):
    """A failure that the user can act on; the command line prints it as one line and exits with 1."""

    exit_code = 1


class UsageError(LungtlError):
    """The command itself is wrong (an unknown key, a missing option); exits with 2."""

    exit_code = 2


class Unreachable(LungtlError):
    """The tracking store cannot be used now; nothing is wrong with the run that asked for it."""


class Refused(LungtlError):
    """One item of a source cannot be used; it goes to the store's quarantine and the rest goes on.

    Args:
        reason: what is wrong with it, with the value seen.
        remedy: what the user can do about it.
    """

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        # Worker processes send this exception home; the default would call __init__ with one argument.
        return Refused, (self.reason, self.remedy)
