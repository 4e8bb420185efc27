"""The demo's page: what a reader must find on it, and that it fits a phone."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from cookbook.demo_chain import Answered
from cookbook.demo_figure import figure
from cookbook.demo_page import Shown, heat_map, render, style
from cookbook.demo_passages import Passage, Prompt, origins, place
from cookbook.demo_questions import QUESTIONS, Ask
from cookbook.demo_summary import key_numbers, notes
from cookbook.demo_table import answers, summary, table
from semshare_core import Canary, ReuseReport
from semshare_core.report import colours
from semshare_core.report.token_strip import SOURCES

TOKENS = ["<|im_start|>", "a < b", " &amp;", " & c", "\n\n", "Why", "?"]


def report(sources: list[int], computed: list[int], **more: Any) -> ReuseReport:
    count = Counter(sources)
    return ReuseReport(
        level="balanced",
        prompt_tokens=len(sources),
        prefix_tokens=count[3],
        moved_tokens=count[2],
        fuzzy_tokens=count[1],
        new_tokens=count[0],
        recomputed_tokens=sum(computed),
        recompute_ratio=sum(computed) / len(computed),
        token_sources=sources,
        token_recomputed=computed,
        **more,
    )


CHECK = Canary(id="1", status="measured", level="balanced", served_level="balanced", tokens=3, kl=0.0123, bound=0.05)
MISS = report([0] * 7, [1] * 7, outcome="miss", ttft_ms=4900.0)
HIT = report(
    [3, 2, 2, 2, 1, 0, 0],
    [0, 0, 0, 1, 0, 1, 1],
    outcome="semantic",
    reason="a <reason>",
    ttft_ms=700.0,
    reference_ids=["first"],
    canary=CHECK,
)


def answered(made: ReuseReport, answer: str, full_answer: str, question: str = "Why <b>?") -> Answered:
    ask = Ask("a <kind>", question)
    full = report([0] * 7, [1] * 7, outcome="bypass", ttft_ms=4800.0)
    return Answered(ask, "".join(TOKENS), answer, full_answer, made, full, 2, 3)


FIRST = Prompt(1, TOKENS, [Passage("A", 1, 3), Passage("B", 3, 5)])
SECOND = Prompt(2, TOKENS, [Passage("B", 1, 3), Passage("A", 3, 5)])
SHOWN = [
    Shown(answered(MISS, "It is <so>.", "It is <so>."), FIRST, []),
    Shown(answered(HIT, "It was <script>so</script>", "It was not so"), SECOND, [FIRST]),
]


class Reader(HTMLParser):
    """Gathers tags and addresses, the text of every class, and the spans of the heat map."""

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
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag == "pre":
            self._in_map = True
        if tag == "span" and self._in_map:
            self._class = dict(attrs)["class"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "pre":
            self._in_map = False
        if tag == "span":
            self._class = None

    def handle_data(self, data: str) -> None:
        if self._class is not None:
            self.spans.append((self._class, data))


def sections(page: str) -> list[str]:
    return re.findall(r"<section.*?</section>", page, re.DOTALL)


# The picture


def test_the_picture_comes_first_and_the_details_are_folded_up() -> None:
    page = render(SHOWN)
    assert page.index('class="bars"') < page.index('class="flow"') < page.index("<details>") < page.index("<pre")
    for section in sections(page):
        assert section.index('class="answers"') < section.index("<details>")
    assert "<details open" not in page
    assert "<table" not in page


def test_every_question_has_its_bars_in_one_scale() -> None:
    miss, hit = sections(render(SHOWN))
    bars = r'class="bar (\w+)" style="--share:([\d.]+)"'
    assert re.findall(bars, miss) == [("miss", "1.0000"), ("bypass", "0.9796")]
    assert re.findall(bars, hit) == [("semantic", "0.1429"), ("bypass", "0.9796")]
    for text in ("0.70 s <b>6.9×</b>", "4.8 s"):
        assert text in hit


def test_every_question_has_its_kl_and_what_was_promised() -> None:
    miss, hit = sections(render(SHOWN))
    assert "<dt>KL</dt><dd>0 <small>lossless</small></dd>" in miss
    assert "<dt>KL</dt><dd>0.0123 <small>promised at most 0.05</small></dd>" in hit


def test_every_question_has_both_answers_and_shows_where_they_part() -> None:
    miss, hit = sections(render(SHOWN))
    assert "It is &lt;so&gt;." in miss
    assert "the same, word for word" in miss
    assert "<mark>" not in miss
    assert "<dd>It was <mark>&lt;script&gt;so&lt;/script&gt;</mark></dd>" in hit
    assert "<dd>It was <mark>not so</mark></dd>" in hit


def test_the_strip_covers_the_prompt() -> None:
    drawn = figure(SECOND, [FIRST], HIT)
    widths: Counter[str] = Counter()
    for name, width in re.findall(r'<rect class="(\w+)" x="[\d.]+" y="\d+" width="([\d.]+)"', drawn):
        widths[name] += round(float(width) * len(TOKENS) / 1000)
    assert widths == {"before": 7, "prefix": 1, "moved": 3, "fuzzy": 1, "new": 2, "computed": 3}


def test_passages_move_from_where_they_stood() -> None:
    drawn = figure(SECOND, [FIRST], HIT)
    ways = re.findall(r'class="ribbon (\w+)" d="M([\d.]+) .*?([\d.]+) \d+H([\d.]+)C.*?passage (\w)', drawn)
    per_token = 1000 / len(TOKENS)
    assert [(source, name) for source, *_, name in ways] == [("moved", "B"), ("moved", "A")]
    assert [[round(float(x) / per_token) for x in way[1:4]] for way in ways] == [[3, 1, 3], [1, 3, 5]]
    assert "prompt of question 1" in drawn


def test_a_first_prompt_has_no_ribbons() -> None:
    drawn = figure(FIRST, [], MISS)
    assert "ribbon" not in drawn
    assert "before" not in drawn


def test_pictures_are_told_in_words() -> None:
    for section in sections(render(SHOWN)):
        assert section.count("<svg") == section.count('<svg role="img" aria-label="passages')
    assert (
        "passages B A; before, in question 1: A B; tokens by source: 1 prefix, 3 moved, 1 fuzzy, 2 new; 3 computed"
    ) in figure(SECOND, [FIRST], HIT)


# Passages


def test_passages_are_found_and_keep_their_letters() -> None:
    names: dict[str, str] = {}
    first = place(1, ["head ", "one", " two", " three", " tail"], ["absent", "two three", "one"], names)
    assert first.passages == [Passage("A", 1, 2), Passage("B", 2, 4)]
    again = place(2, ["two", " three", " one"], ["absent", "two three", "one"], names)
    assert again.passages == [Passage("B", 0, 2), Passage("A", 2, 3)]


def test_passages_are_named_on_behind_z() -> None:
    texts = [f"<{number}>" for number in range(28)]
    assert [each.name for each in place(1, texts, texts, {}).passages][-3:] == ["Z", "AA", "AB"]


def test_passages_come_from_the_fewest_earlier_prompts() -> None:
    other = Prompt(2, ["else"], [Passage("B", 0, 1)])
    third = Prompt(3, TOKENS, SECOND.passages)
    assert origins(third, [other, FIRST], HIT) == [FIRST]
    assert origins(third, [other], HIT) == [other]
    assert origins(third, [other, FIRST], MISS) == [], "nothing was reused"


# The heat map


def test_the_heat_map_is_the_prompt_to_the_letter() -> None:
    assert "".join(text for _, text in Reader(heat_map(TOKENS, HIT)).spans) == "".join(TOKENS)


def test_every_token_has_its_source_and_its_mark() -> None:
    assert Reader(heat_map(TOKENS, HIT)).spans == [
        ("prefix", "<|im_start|>"),
        ("moved", "a < b &amp;"),
        ("moved fresh", " & c"),
        ("fuzzy", "\n\n"),
        ("new fresh", "Why?"),
    ]


def test_tokens_of_another_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="6 tokens"):
        heat_map(TOKENS[:-1], HIT)


# The page as a whole


def test_nothing_a_model_or_a_document_says_becomes_markup() -> None:
    page = render(SHOWN)
    assert not {"script", "reason", "kind", "so"} & set(Reader(page).tags)
    for text in ("a &lt;reason&gt;", "a &lt;kind&gt;", "Why &lt;b&gt;?"):
        assert text in page


def test_the_page_loads_nothing() -> None:
    page = render(SHOWN)
    assert Reader(page).addresses == []
    assert not re.search(r"url\(|@import|<script|<link", page)


def test_the_page_fits_380_pixels() -> None:
    page = render(SHOWN)
    rules, _, narrow = style().partition("@media (max-width")
    assert '<meta name="viewport" content="width=device-width' in page
    assert not re.search(r'<(?:svg|rect|div|img)[^>]*\swidth="\d{3,}', re.sub(r"<rect[^>]*>", "", page))
    for least in re.findall(r"(?<![\w-])(?:min-)?width: *([\d.]+)(rem|px)|minmax\(([\d.]+)(rem|px),", rules):
        size, unit = least[0] or least[2], least[1] or least[3]
        assert float(size) * (16 if unit == "rem" else 1) <= 380 - 2 * 16
    assert "white-space: pre;" not in rules, "long lines must wrap"
    assert ".both, .answers { grid-template-columns: minmax(0, 1fr); }" in narrow


def test_colours_are_those_of_the_notebooks() -> None:
    rules = style()
    for name, _, colour in SOURCES:
        assert f".{name} {{ fill: {colour}; }}" in rules
    for outcome, colour in colours.OUTCOMES.items():
        assert f".bar.{outcome} {{ background: {colour}; }}" in rules
    own = set(re.findall(r"#[0-9a-f]{6}", rules)) - {colour for *_, colour in SOURCES} - set(colours.OUTCOMES.values())
    for colour in own:
        red, green, blue = channels(colour)
        assert max(red, green, blue) - min(red, green, blue) < 16, f"{colour} is no grey"


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_both_schemes(scheme: int) -> None:
    block = re.findall(r":root \{(.*?)\}", style(), re.DOTALL)[scheme]
    shade = dict(re.findall(r"--(\w+): (#\w{6})", block))
    paper, ink = channels(shade["paper"]), channels(shade["ink"])
    assert contrast(channels(shade["soft"]), paper) >= 4.5
    assert contrast(ink, channels(shade["faint"])) >= 4.5
    for name, _, colour in SOURCES:
        [alpha] = re.findall(rf"\.map \.{name} {{ background: {colour}(\w\w);", style())
        part = int(alpha, 16) / 255
        tint = [part * over + (1 - part) * under for over, under in zip(channels(colour), paper, strict=True)]
        assert contrast(ink, tint) >= 4.5, name


def channels(colour: str) -> list[float]:
    return [float(int(colour[at : at + 2], 16)) for at in (1, 3, 5)]


def contrast(one: list[float], other: list[float]) -> float:
    """As WCAG 2 defines it."""
    dark, light = sorted(map(luminance, (one, other)))
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: list[float]) -> float:
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (each / 255 for each in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


# The numbers that matter


def test_the_summary_counts_what_found_its_passages() -> None:
    done = [each.done for each in SHOWN]
    sooner, computed, close = key_numbers(done)
    assert (sooner.value, computed.value, close.value) == ("6.9×", "43%", "0.012")
    assert "1 of 2 questions" in sooner.meaning
    assert "balanced promises at most 0.05" in close.meaning
    assert "1 of 2 questions" in notes(done)[0]
    assert "the clock was: 1.0×, where" in notes(done)[0]


def test_the_console_fits_80_columns() -> None:
    console = Console(width=80, record=True, file=StringIO())
    asks = [Answered(ask, "", "It is\nso. " * 20, "not", HIT, MISS, 0, 32) for ask in QUESTIONS]
    for part in (summary(asks), table(asks), answers(asks, console.width)):
        console.print(part)
    text = console.export_text()
    assert "balanced promises at most" in text
    assert " computed " in text, "no heading is cut"
    numbered = [line for line in text.splitlines() if re.match(r" ?\d+  ", line)]
    assert len(numbered) == 2 * len(QUESTIONS), "a line each in the table, and one each above the answers"
    assert all(f"{number:2}  {ask.kind} " in text for number, ask in enumerate(QUESTIONS, start=1))
    assert text.count("7.0×") == len(QUESTIONS) + 1


def test_the_summary_of_one_first_question() -> None:
    [none] = key_numbers([SHOWN[0].done])
    assert (none.value, none.meaning) == ("0", "of 1 question found half of their prompt in earlier ones")
