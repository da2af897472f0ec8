"""Files that are there whole or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest

from lungtl.data.store.files import explain_write_errors, whole_file
from lungtl.settings.errors import LungtlError


def test_a_file_has_no_name_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(b"old")
    with whole_file(path, tmp_path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file_and_a_temporary_one(tmp_path: Path) -> None:
    path, scratch = tmp_path / "file.json", tmp_path / "scratch"
    scratch.mkdir()
    path.write_bytes(b"old")
    with pytest.raises(TypeError), whole_file(path, scratch) as file:
        file.write(cast("bytes", "no bytes"))
    assert path.read_bytes() == b"old"
    assert [file.suffix for file in scratch.iterdir()] == [".tmp"]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space"),
        (errno.EDQUOT, "free some space"),
        (errno.EACCES, "make the folder writable"),
        (errno.EROFS, "make the folder writable"),
        (errno.EIO, "check the disk"),
    ],
)
def test_write_errors_have_a_remedy(code: int, remedy: str) -> None:
    with pytest.raises(LungtlError) as caught, explain_write_errors(Path("/data/x")):
        raise OSError(code, os.strerror(code))
    message = str(caught.value)
    assert message.startswith(f"cannot write /data/x ({os.strerror(code)}); {remedy}")
    assert "rerun the same command" in message


def test_other_exceptions_are_unchanged() -> None:
    with pytest.raises(ValueError, match="no matter"), explain_write_errors(Path("x")):
        raise ValueError("no matter of the disk")
