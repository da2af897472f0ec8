"""Keep the password of a tracking URI out of files, messages and MLflow: only the environment may contain it."""

from __future__ import annotations

import re

from lungtl.settings.errors import UsageError

CREDENTIALS = re.compile(r"((?<=http)|(?<=https))://(?!\*{3}@).*@|(?<!sqlite)://(?!\*{3}@)[^/:\s]*:.*@")
"""Of a server the user name too, which may be a token; of a database only with a password.

To the last @ of a line: what stands before an earlier one may still be a part of the password."""
VARIABLE = "MLFLOW_TRACKING_URI"
"""Environment variable: the default of tracking.uri."""


def has_password(uri: str) -> bool:
    """Whether a URI contains a password, or a server's user name."""
    return CREDENTIALS.search(uri) is not None


def hide_password(text: str) -> str:
    """Replace the credentials of every URI in a text by `***`; a password may contain any character."""
    return CREDENTIALS.sub("://***@", text)


def refuse_password(uri: str) -> None:
    """Raise UsageError for a password in a setting: settings are written to files."""
    if has_password(uri):
        raise UsageError(
            f"tracking.uri={hide_password(uri)}: a password would be written to files; set the environment variable "
            f"{VARIABLE} to this URI instead"
        )


def check_credentials(uri: str) -> None:
    """Raise UsageError for a hidden password, and for one that a driver would cut elsewhere and quote in errors."""
    scheme, _, rest = uri.partition("://")
    credentials, at, host = rest.rpartition("@")
    hidden = f"tracking.uri={scheme}://***@{host}"
    if credentials == "***":
        raise UsageError(f"{hidden}: the password was not stored; set the environment variable {VARIABLE} to the URI")
    if at and scheme != "sqlite" and re.search(r"[@/?#\[\]\s]", credentials):
        raise UsageError(
            f"{hidden}: @ / ? # [ ] and blanks in a user name or password must be percent-encoded "
            "(%40 for @, %2F for /)"
        )
