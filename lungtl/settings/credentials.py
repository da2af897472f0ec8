"""Keep the password of `tracking.uri` out of messages, files that leave this machine, and MLflow itself."""

from __future__ import annotations

import re

from lungtl.settings.errors import UsageError

CREDENTIALS = re.compile(r"(?<!sqlite)://.*@")
"""To the last @ of a line: what stands before an earlier one may still be a part of the password."""


def hide_password(text: str) -> str:
    """Replace the credentials of every URI in a text by `***`; a password may contain any character."""
    return CREDENTIALS.sub("://***@", text)


def check_credentials(uri: str) -> None:
    """Raise UsageError for credentials that a driver would cut elsewhere, quoting the rest of a password in errors."""
    scheme, _, rest = uri.partition("://")
    credentials, at, _ = rest.rpartition("@")
    if at and scheme != "sqlite" and re.search(r"[@/?#\[\]\s]", credentials):
        raise UsageError(
            f"tracking.uri={hide_password(uri)}: @ / ? # [ ] and blanks in a user name or password must be "
            "percent-encoded (%40 for @, %2F for /)"
        )
