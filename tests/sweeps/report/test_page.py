from __future__ import annotations

import base64
import json
import re
import shutil
import subprocess
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lungtl.sweeps.report.sweep import read_sweep
from lungtl.sweeps.report.write import PAGE, write_report
from tests.sweeps.report.sweeps import LABELS, bags, probabilities, write_failed, write_grid, write_run


class Parsed(HTMLParser):
    """The tags with their attributes, and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
SKILLS = {("mean", "a"): 0.2, ("max", "a"): 1.5, ("mean", "b"): 0.5, ("max", "b"): 1.0}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_grid(tmp_path_factory.mktemp("sweep"), SKILLS)
    write_failed(folder / "99", "loss is not finite; lower optimizer.lr")
    return folder


@pytest.fixture(scope="module")
def written(sweep: Path) -> Path:
    write_report(sweep, title="Two by <two>")
    return sweep / "report"


@pytest.fixture(scope="module")
def page(written: Path) -> str:
    return (written / PAGE).read_text()


def page_of(sweep: Path, title: str | None = None) -> Path:
    """The page of a sweep's report."""
    write_report(sweep, title=title)
    return sweep / "report" / PAGE


def rows_of(page: str, section: str) -> list[list[str]]:
    """The texts of the rows of a section's first table."""
    inside = page[page.index(f'<section id="{section}">') :]
    body = inside[inside.index("<tbody>") : inside.index("</tbody>")]
    rows = re.findall(r"<tr.*?</tr>", body, re.DOTALL)
    return [[Parsed(cell).text for cell in re.findall(r"<td.*?</td>", row, re.DOTALL)] for row in rows]


def test_what_is_written(written: Path) -> None:
    files = {path.name: path for path in written.iterdir()}
    assert files.keys() == {
        "report.html", "README.md", "table.csv", "table.tex", "settings.csv", "comparisons.csv", "effects.csv",
        "intervals.png", "roc.png", "effects.png", "intervals.pdf", "roc.pdf", "effects.pdf",
    }  # fmt: skip
    assert all(path.stat().st_size > 0 for path in files.values())


def test_the_page_loads_nothing(page: str) -> None:
    addresses = [
        value
        for _, attributes in Parsed(page).tags
        for name, value in attributes.items()
        if name in ("src", "href", "action", "srcset", "data") and value is not None
    ]
    assert addresses
    links = [address for address in addresses if not address.startswith(("data:image/png;base64,", "#"))]
    assert links == [f"../{number}/" for number in range(8)]  # followed by clicking, not loaded
    assert "url(" not in page
    assert "@import" not in page


def test_the_page_shows_the_numbers_of_the_sweep(sweep: Path, page: str) -> None:
    tested = read_sweep(sweep).tested
    rows = rows_of(page, "settings")
    assert len(rows) == 4
    for row, setting in zip(rows, tested.settings, strict=True):
        assert row[1:4] == [*setting.levels, "2"]
        score = setting.test["auroc"]
        assert row[5] == f"{score.value:.3f} ± {score.sd:.3f}\n[{score.low:.3f}, {score.high:.3f}]"
    assert "loss is not finite; lower optimizer.lr" in Parsed(page).text
    assert "Two by <two>" in Parsed(page).text


def test_the_tables_match_the_page(sweep: Path, written: Path) -> None:
    content = read_sweep(sweep)
    settings = pd.read_csv(sweep / "report" / "settings.csv")
    assert settings["chosen"].tolist() == [True, False, False, False]
    scores = [setting.test["auroc"].value for setting in content.tested.settings]
    assert settings["auroc"].tolist() == pytest.approx(scores)
    comparisons = pd.read_csv(sweep / "report" / "comparisons.csv")
    assert comparisons["p_holm"].tolist() == pytest.approx(
        [np.nan if one.adjusted is None else one.adjusted for one in content.comparisons], nan_ok=True
    )
    effects = pd.read_csv(sweep / "report" / "effects.csv")
    assert effects[["factor", "level", "reference", "pairs"]].to_numpy().tolist() == [
        ["aggregator", "max", "mean", 4],
        ["backbone", "b", "a", 4],
    ]


def test_the_same_sweep_gives_the_same_bytes(sweep: Path, written: Path) -> None:
    write_report(sweep, sweep / "again", "Two by <two>")
    for first in written.iterdir():
        assert first.read_bytes() == (sweep / "again" / first.name).read_bytes()


def test_recorded_costs_are_shown(tmp_path: Path) -> None:
    for name, seconds in (("0", 12.5), ("1", 100.0)):
        training = {"seconds": seconds, "trainable_parameters": 121_476}
        write_run(
            tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": name}, training=training
        )
    page = page_of(tmp_path)
    assert page.with_name("cost.png").is_file()
    rows = rows_of(page.read_text(), "settings")
    assert [row[-2:] for row in rows] == [["121,476", "12"], ["121,476", "100"]]


def test_one_run_and_one_class_are_no_error(tmp_path: Path) -> None:
    write_run(tmp_path / "0", bags("test", probabilities(1, 0), np.ones_like(LABELS)), None)
    page = page_of(tmp_path).read_text()
    (row,) = rows_of(page, "settings")
    assert row[:5] == ["1", "the only setting", "1", "undefined", "undefined"]
    assert "Nothing was varied" in page


def test_texts_are_escaped(tmp_path: Path) -> None:
    nasty = "</td></script><script>alert(1)</script> & \"quoted\" 'too' $x^$"
    for name, option in (("0", "mean"), ("1", nasty)):
        write_run(tmp_path / name, bags("test", probabilities(1, 0)), None, choices={"aggregator": option})
    write_failed(tmp_path / "9", nasty)
    page = page_of(tmp_path, nasty).read_text()
    assert nasty not in page
    parsed = Parsed(page)
    assert parsed.text.count(nasty) >= 4  # title, heading, level, error
    assert [tag for tag, _ in parsed.tags].count("script") == 2
    (block,) = re.findall(r'<script type="application/json" id="configs">(.*?)</script>', page, re.DOTALL)
    assert nasty in json.loads(block)["runs"][1]["name"]


def test_only_the_page_s_own_style_and_script_may_run(page: str) -> None:
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(sha256(inside.encode()).digest()).decode()}'"


def test_cells_have_their_sort_value(page: str) -> None:
    body = page[page.index('<section id="tests">') :]
    cells = [attributes for tag, attributes in Parsed(body[: body.index("</tbody>")]).tags if tag == "td"]
    assert cells[0] == {}
    assert [attributes["class"] for attributes in cells[1:8]] == ["number"] * 7
    assert 0 < float(cells[2]["data-sort"] or 1) < 1
    foot = page[page.index("<tfoot>") : page.index("</tfoot>")]
    spanned, *numbers = [attributes for tag, attributes in Parsed(foot).tags if tag == "td"][:6]
    assert spanned == {"colspan": "5"}
    assert numbers == [{"class": "number", "data-sort": ""}] * 5


def test_no_bag_is_shown(page: str) -> None:
    assert not re.search(r"\bbags?\b", Parsed(re.sub(r"<script>.*?</script>", "", page, flags=re.DOTALL)).text)


def dom(page: Path, fragment: str = "") -> str:
    """The page as Chromium has it after its script ran."""
    assert CHROMIUM is not None
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"{page.as_uri()}{fragment}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_columns_are_sorted(written: Path, page: str) -> None:
    # columns: #, aggregator, backbone, seeds, validation AUROC, test AUROC, ...
    before = [row[5] for row in rows_of(page, "settings")]
    after = dom(written / PAGE, "#sort=-5")
    assert [row[5] for row in rows_of(after, "settings")] == sorted(before, key=lambda cell: -float(cell[:5]))
    assert 'aria-sort="descending"' in after
    assert [row[2] for row in rows_of(dom(written / PAGE, "#sort=2"), "settings")] == ["a", "a", "b", "b"]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_missing_values_are_sorted_last(tmp_path: Path) -> None:
    for name, training in (("0", {"seconds": 2.0}), ("1", {}), ("2", {"seconds": 100.0}), ("3", {"seconds": 13.0})):
        test = bags("test", probabilities(1, 0))
        write_run(tmp_path / name, test, None, choices={"aggregator": name}, training=training)
    page = page_of(tmp_path)
    column = len(rows_of(page.read_text(), "settings")[0]) - 1
    for sign, order in (("", ["2", "13", "100", ""]), ("-", ["100", "13", "2", ""])):
        assert [row[-1] for row in rows_of(dom(page, f"#sort={sign}{column}"), "settings")] == order


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_different_data_are_shown_as_a_difference(tmp_path: Path) -> None:
    for name, store in (("0", "first"), ("1", "second")):
        test = bags("test", probabilities(1, 0))
        write_run(tmp_path / name, test, None, store_fingerprint=store)
    page = page_of(tmp_path)
    assert rows_of(dom(page), "difference") == [["dataset.fingerprint", "first", "second"]]
    assert rows_of(page.read_text(), "varied") == [["dataset.fingerprint", "first; second"], ["seed", "0"]]


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_two_runs_are_compared_by_the_script(written: Path) -> None:
    after = dom(written / PAGE)
    assert rows_of(after, "difference") == [["seed", "0", "1"]]  # the first two runs
    assert after.count("<option") == 2 * 8
