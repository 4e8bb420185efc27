"""The demo's page: one hand-made report, and what a reader must find of it."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from cookbook.demo_page import PageCall, heat_map, render
from semshare_core import ReuseReport

TOKENS = ["<|im_start|>", "a < b", " &amp;", " & c", "\n\n", "Why", "?"]
REPORT = ReuseReport(
    outcome="semantic",
    reason="a <reason>",
    level="balanced",
    prompt_tokens=7,
    prefix_tokens=1,
    moved_tokens=2,
    fuzzy_tokens=1,
    new_tokens=3,
    recomputed_tokens=4,
    recompute_ratio=0.57,
    token_sources=[3, 2, 2, 1, 0, 0, 0],
    token_recomputed=[0, 0, 1, 0, 1, 1, 1],
)
CALL = PageCall("a <kind>", "Why <b>?", TOKENS, REPORT, "<script>alert(1)</script>", "other", ["1", "a <cell>"])


class Reader(HTMLParser):
    """Gathers the text of the heat map by class, every tag, and every address that would be loaded."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: Counter[str] = Counter()
        self.spans: list[tuple[str, str]] = []
        self.addresses: list[str] = []
        self._class: str | None = None
        self._in_map = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        told = dict(attrs)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "pre":
            self._in_map = True
        if tag == "span" and self._in_map:
            self._class = told["class"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._in_map = False
        if tag == "span":
            self._class = None

    def handle_data(self, data: str) -> None:
        if self._class is not None:
            self.spans.append((self._class, data))


def test_the_heat_map_is_the_prompt_to_the_letter() -> None:
    assert "".join(text for _, text in Reader(heat_map(TOKENS, REPORT)).spans) == "".join(TOKENS)


def test_every_token_has_its_source_and_its_mark() -> None:
    assert Reader(heat_map(TOKENS, REPORT)).spans == [
        ("prefix", "<|im_start|>"),
        ("exact", "a < b"),
        ("exact fresh", " &amp;"),
        ("fuzzy", " & c"),
        ("new fresh", "\n\nWhy?"),
    ]


def test_nothing_a_model_or_a_document_says_becomes_markup() -> None:
    page = render([CALL], ["", "<heading>"], "a <note>")
    reader = Reader(page)
    assert not {"script", "reason", "kind", "cell", "heading", "note"} & set(reader.tags)
    for text in ("a &lt;reason&gt;", "a &lt;kind&gt;", "Why &lt;b&gt;?", "a &lt;cell&gt;", "a &lt;note&gt;"):
        assert text in page


def test_the_page_loads_nothing() -> None:
    page = render([CALL], ["", "call"], "")
    assert Reader(page).addresses == ["#call-1", "#call-1"]
    assert "url(" not in page
    assert "@import" not in page


def test_legend_and_counts() -> None:
    page = render([CALL], ["", "call"], "")
    legend = re.search(r'<ul class="legend">.*?</ul>', page)
    assert legend is not None
    assert re.findall(r'<span class="(\w+)">', legend[0]) == ["new", "fuzzy", "exact", "prefix", "fresh"]
    assert "7 tokens, 4 of them computed" in page
    assert 'aria-label="1 prefix, 2 exact, 1 fuzzy, 3 new"' in page


def test_the_strip_covers_the_prompt() -> None:
    strip = re.search(r"<svg.*?</svg>", render([CALL], ["", "call"], ""))
    assert strip is not None
    widths: Counter[str] = Counter()
    for name, width in re.findall(r'<rect class="(\w+)" x="\d+"(?: y="\d+")? width="(\d+)"', strip[0]):
        widths[name] += int(width)
    assert widths == {"prefix": 1, "exact": 2, "fuzzy": 1, "new": 3, "mark": 4}


def test_tokens_of_another_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="6 tokens"):
        heat_map(TOKENS[:-1], REPORT)
