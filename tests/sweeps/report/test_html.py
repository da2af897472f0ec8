from __future__ import annotations

import base64
import json
import re
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path

from lungtl.sweeps.report import html
from lungtl.sweeps.report.html import Cell

NASTY = "</td></script><script>alert(1)</script> & \"quoted\" 'too'"


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


def test_texts_stay_texts(tmp_path: Path) -> None:
    png = tmp_path / "x.png"
    png.write_bytes(b"png")
    for piece in (
        html.paragraph(NASTY), html.heading(NASTY), html.listing([NASTY]), html.image(png, NASTY),
        html.table([NASTY], [[NASTY]], foot=[[NASTY]]),
    ):  # fmt: skip
        parsed = Parsed(piece)
        assert "script" not in {tag for tag, _ in parsed.tags}
        assert NASTY in parsed.text or NASTY in {attributes.get("alt") for _, attributes in parsed.tags}


def test_no_text_ends_the_data_block() -> None:
    block = html.data_block("configs", {"value": NASTY})
    assert block.count("</script>") == 1
    inside = block.removeprefix('<script type="application/json" id="configs">').removesuffix("</script>")
    assert json.loads(inside) == {"value": NASTY}


def test_only_the_page_s_own_style_and_script_may_run() -> None:
    page = html.page("title", "<p>x</p>")
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', page)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(sha256(inside.encode()).digest()).decode()}'"


def test_cells_know_what_they_are_sorted_by() -> None:
    parsed = Parsed(html.table(["p"], [[Cell("< 0.001", 2e-05)], ["text"]], numbers=[0]))
    assert [attributes for tag, attributes in parsed.tags if tag == "td"] == [
        {"class": "number", "data-sort": "2e-05"},
        {"class": "number", "data-sort": ""},
    ]


def test_columns_after_a_wide_cell_are_counted() -> None:
    parsed = Parsed(html.table(["a", "b", "c"], [], foot=[[Cell("control", span=2), "0.5"]], numbers=[0, 2]))
    assert [attributes for tag, attributes in parsed.tags if tag == "td"] == [
        {"colspan": "2"},
        {"class": "number", "data-sort": ""},
    ]
