"""Every row in docs/dicom.md names a test, and every test of a refusal has a row."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).parent
ROWS = [
    line
    for line in (HERE.parents[2] / "docs" / "dicom.md")
    .read_text(encoding="utf-8")
    .partition("## Files")[2]
    .splitlines()
    if line.startswith("| ") and not line.startswith("| ---") and not line.endswith("| test |")
]
TESTS = {
    path.stem: re.findall(r"^def (test_\w+)", path.read_text(encoding="utf-8"), re.MULTILINE)
    for path in (
        *HERE.glob("test_*.py"),
        HERE.parent / "test_dicom.py",
        HERE.parents[1] / "data" / "store" / "test_opening.py",
    )
}


def test_each_row_has_its_test() -> None:
    known = {name for names in TESTS.values() for name in names}
    assert len(ROWS) > 70
    for row in ROWS:
        named = re.findall(r"`(test_\w+)`", row)
        assert named, f"no test in the row {row}"
        assert set(named) <= known, row


def test_each_refusal_has_its_row() -> None:
    named = set(re.findall(r"`(test_\w+)`", "\n".join(ROWS)))
    undocumented = {"test_printable_keeps_letters_of_all_languages", "test_all_decoders_are_available",
                    "test_values_of_a_sample", "test_one_line_for_many_scans",
                    "test_the_fingerprint_is_that_of_the_content"}  # fmt: skip
    for module in (
        "test_files",
        "test_stack",
        "test_mixture",
        "test_units",
        "test_pixels",
        "test_compressed",
        "test_volume_file",
    ):
        missing = set(TESTS[module]) - named - undocumented
        assert not missing, f"{missing} of {module}.py in no row of docs/dicom.md"
