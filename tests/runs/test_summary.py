from __future__ import annotations

import logging
from pathlib import Path

import pytest

from lungtl.evaluation.document import evaluation_document
from lungtl.evaluation.metrics import score
from lungtl.runs.summary import SUMMARY, print_summary, write_summary


def test_of_one_scan_its_probability_is_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (tmp_path / "predictions.csv").write_text("bag_id,patient_id,label,probability,calibrated\ns1,p1,1,0.731,0.68\n")
    document = evaluation_document(split="all", bag=score([1], [0.731], ["p1"], resamples=0))
    print_summary(document, tmp_path, [])
    assert caplog.messages[0].splitlines() == [
        "all: 1 case of 1 patient, 1 positive",
        "probability  0.731 (calibrated 0.680), positive at 0.500; label: malignant",
        f"folder       {tmp_path}",
    ]


def test_all_tables_are_in_the_folder_and_printed_on_demand(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    table = score([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6], list("abcd"), resamples=0)
    document = evaluation_document(split="test", bag=table)
    write_summary(document, tmp_path)
    text = (tmp_path / SUMMARY).read_text()
    assert "balanced_accuracy" in text
    print_summary(document, tmp_path, ["lungtl ui"])
    print_summary(document, tmp_path, [], verbose=True)
    short, long = caplog.messages
    assert "balanced_accuracy" not in short
    assert short.splitlines()[-1] == "next         lungtl ui"
    assert long.startswith(text.splitlines()[0])
    assert "balanced_accuracy" in long


def test_a_run_ends_in_at_most_12_lines(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    rows: tuple[list[int], list[float], list[str]] = ([0, 1, 0, 1], [0.1, 0.9, 0.4, 0.6], list("abcd"))
    steps = ["lungtl ui", "lungtl train -m", "lungtl evaluate"]
    for controls, printed in ((2, 3), (4, 2)):
        tables = {f"control{k}": score(rows[0], [0.1, 0.2, 0.3, 0.4], rows[2], resamples=0) for k in range(controls)}
        print_summary(
            evaluation_document(split="test", bag=score(*rows, resamples=0), controls=tables), tmp_path, steps
        )
        lines = caplog.messages[-1].splitlines()
        assert lines[-printed].split()[0] == "next"
        assert lines[-1].endswith(steps[printed - 1])
        assert len(lines) <= 12
