"""Kernel and contrast agent as a header states them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from lungtl.sources.ct.prepare import series_details
from tests.dicom_files import write_series
from tests.sources.ct.found import only


def details(folder: Path, **tags: Any) -> dict[str, Any]:
    write_series(folder, [0, 1, 2], **tags)
    return series_details(only(folder))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("STANDARD", "STANDARD"), ("lung", "LUNG"), ("B31f", "B31F"), ("Br40d\\3", "BR40D"), ("I70f", "I70F"),
        ("FC51", "FC51"), ("YC", "YC"), ("C", "C"), ("Mustermann", "other"), ("B31 Erika", "other"), (None, ""),
    ],
)  # fmt: skip
def test_a_kernel_is_kept_if_it_is_a_code(tmp_path: Path, value: str | None, expected: str) -> None:
    tags = {} if value is None else {"ConvolutionKernel": value.split("\\")}
    assert details(tmp_path, **tags)["kernel"] == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("OMNIPAQUE 350", "yes"), ("IV", "yes"), ("Applied", "yes"), ("NONE", "no"), ("No contrast given", "no"),
        ("non-contrast", "no"), ("", ""), (None, ""),
    ],
)  # fmt: skip
def test_of_a_contrast_agent_only_whether_there_was_one(tmp_path: Path, value: str | None, expected: str) -> None:
    tags = {} if value is None else {"ContrastBolusAgent": value}
    assert details(tmp_path, **tags)["contrast"] == expected
