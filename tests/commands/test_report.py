from __future__ import annotations

from pathlib import Path

import pytest

from tests.commands.conftest import Done, Lab, read_csv, read_json

pytestmark = pytest.mark.slow
SHOWN = ("auroc", "auprc", "sensitivity", "specificity", "brier")


@pytest.fixture(scope="module")
def reported(lab: Lab, swept: Done) -> Path:
    sweep = Path(swept.out.splitlines()[0]).parent
    done = lab.run("report", f"sweep={sweep}", f"out={lab.root / 'report'}", "title=Two aggregators")
    assert "Best setting on validation: " in done.err
    assert done.folder == lab.root / "report"
    return done.folder


def test_a_page_is_written_beside_the_tables(lab: Lab, swept: Done, reported: Path) -> None:
    page = (reported / "report.html").read_text()
    assert "<h1>Two aggregators</h1>" in page
    for folder in swept.out.splitlines():
        value = read_json(Path(folder) / "metrics.json")["bag"]["metrics"]["auroc"]["value"]
        assert f">{value:.3f}" in page
    (effect,) = read_csv(reported / "effects.csv")
    assert (effect["factor"], effect["level"], effect["reference"]) == ("aggregator", "max", "mean")
    assert {row["kind"] for row in read_csv(reported / "comparisons.csv")} == {"best", "control"}


def test_a_sweep_is_found_by_its_name(lab: Lab, swept: Done) -> None:
    sweep = Path(swept.out.splitlines()[0]).parent
    done = lab.run("report", f"sweep={sweep.name}")
    assert done.folder == sweep / "report"
    assert f"open {sweep / 'report' / 'report.html'} in a browser" in done.err


def test_the_table_repeats_metrics_json(swept: Done, reported: Path) -> None:
    rows = {row["run"]: row for row in read_csv(reported / "table.csv")}
    documents = {
        read_json(Path(folder) / "run.json")["name"]: read_json(Path(folder) / "metrics.json")
        for folder in swept.out.splitlines()
    }
    own = {f"control: untrained of {name}" for name in documents}  # each trained by its run's settings
    assert set(rows) == {*documents, "control: prevalence", "control: probe", *own}
    for name, document in documents.items():
        assert int(rows[name]["n"]) == document["bag"]["n"]
        for metric, estimate in document["bag"]["metrics"].items():
            for suffix, part in (("", "value"), ("_low", "low"), ("_high", "high")):
                cell = rows[name][f"{metric}{suffix}"]
                assert (float(cell) if cell else None) == estimate[part]


def test_the_readme_has_a_line_a_run(swept: Done, reported: Path) -> None:
    lines = (reported / "README.md").read_text().splitlines()
    assert lines[0] == "# Two aggregators"
    for folder in swept.out.splitlines():
        name = read_json(Path(folder) / "run.json")["name"]
        metrics = read_json(Path(folder) / "metrics.json")["bag"]
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        for metric in SHOWN:
            estimate = metrics["metrics"][metric]
            low, high = estimate["low"], estimate["high"]
            assert f"{estimate['value']:.3f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]") in line


def test_a_folder_without_runs(lab: Lab, tmp_path: Path) -> None:
    assert "no finished run" in lab.run("report", f"sweep={tmp_path}").complaint()
