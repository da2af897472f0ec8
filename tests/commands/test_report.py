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
    assert "95 % intervals" in done.err
    assert done.folder == lab.root / "report"
    return done.folder


def test_the_table_repeats_metrics_json(swept: Done, reported: Path) -> None:
    rows = {row["run"]: row for row in read_csv(reported / "table.csv")}
    documents = {
        read_json(Path(folder) / "run.json")["name"].split()[3]: read_json(Path(folder) / "metrics.json")
        for folder in swept.out.splitlines()
    }
    assert set(rows) == {*documents, "control: prevalence"}
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
        name = read_json(Path(folder) / "run.json")["name"].split()[3]
        metrics = read_json(Path(folder) / "metrics.json")["bag"]
        (line,) = [line for line in lines if line.startswith(f"| {name} |")]
        for metric in SHOWN:
            estimate = metrics["metrics"][metric]
            assert f"{estimate['value']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]" in line


def test_a_folder_without_runs(lab: Lab, tmp_path: Path) -> None:
    assert "no finished run" in lab.run("report", f"sweep={tmp_path}").complaint()
