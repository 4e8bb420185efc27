"""The README's first screen: short, its picture is the command's, and its figures are those that were measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from matplotlib.patches import Rectangle

from benchmarks.picture import SYSTEMS, make_picture
from benchmarks.report.drawing import save
from benchmarks.report.first_screen import BARS, describe, first_screen
from semshare_core import PoolConfig, SemShareEngine

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
MEASURED = json.loads((ROOT / "docs" / "first-screen.json").read_text())


def section(title: str) -> str:
    return README.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def bullets(title: str) -> list[str]:
    return re.findall(r"^- (.+(?:\n  .+)*)", section(title), re.M)


def words(svg: Path) -> str:
    """What a picture says, as one text."""
    return " ".join("".join(element.itertext()).strip() for element in ElementTree.parse(svg).iter() if element.text)


def test_it_is_read_in_a_minute() -> None:
    assert len(README.split()) <= 900  # as `wc -w` counts
    assert len(bullets("Results")) == 5
    assert len(bullets("Limits")) == 6
    assert 'The default, `balanced`, is approximate; `reuse="exact"` is lossless' in README
    for other in ("prefix caching", "llama.cpp", "CacheBlend", "SemShareKV", "SemShare"):
        assert re.search(rf"^\| {re.escape(other)} \|", README, re.M), other


def test_the_picture_is_that_of_the_figures_beside_it() -> None:
    assert f"![{describe(MEASURED)}](docs/first-screen.svg)" in README
    path = ROOT / "docs" / "first-screen.svg"
    assert path.stat().st_size < 40_000
    told = words(path)
    for seconds in MEASURED["seconds"].values():
        assert f"{seconds:.1f} s" in told
    assert f"{MEASURED['prompt_tokens']:,} tokens" in told
    assert f"KL to the full prefill {MEASURED['kl']:.3f}" in told
    assert MEASURED["outcome"] == "semantic"
    assert MEASURED["threads"] == 1


def test_the_picture_is_what_the_command_draws_today(tmp_path: Path) -> None:
    save(first_screen(MEASURED), tmp_path / "again.svg", letters="none")
    assert words(tmp_path / "again.svg") == words(ROOT / "docs" / "first-screen.svg")


def test_labels_stay_inside_their_boxes_and_beside_their_bars() -> None:
    figure = first_screen(MEASURED)
    figure.canvas.draw()
    passages, bars = figure.axes
    labels = passages.texts
    boxes = [patch for patch in passages.patches if isinstance(patch, Rectangle)]
    assert len(labels) == len(boxes) == 14
    for label, box in zip(labels, boxes, strict=True):
        inside, around = label.get_window_extent(), box.get_window_extent()
        assert around.x0 < inside.x0 < inside.x1 < around.x1, label.get_text()
    for note, bar in zip(bars.texts, bars.patches, strict=True):
        assert note.get_text() == note.get_text().strip()  # SVG drops spaces at the ends
        assert note.get_window_extent().x0 > bar.get_window_extent().x1


@pytest.mark.real
def test_the_picture_is_made_by_a_command(demo: tuple[Any, Any], tmp_path: Path) -> None:
    engine = SemShareEngine(*demo, pool=PoolConfig(max_bytes=2**30))
    told = make_picture(engine, tmp_path, tokens=360, repeats=1)
    assert json.loads((tmp_path / "first-screen.json").read_text()) == told
    assert set(told) == set(MEASURED)
    assert set(told["seconds"]) == set(BARS) == {system.name for system in SYSTEMS}
    assert 300 < told["prompt_tokens"] < 450
    assert told["prefix_tokens"] < 30  # the passages moved: what both prompts begin with is the instruction
    for text in (*(label for label, _ in BARS.values()), *told["passages"], "question"):
        assert text in words(tmp_path / "first-screen.svg")


def test_results_are_figures_that_a_command_printed() -> None:
    page = (ROOT / "docs" / "benchmarks.md").read_text()
    for result in bullets("Results"):
        figures = re.findall(r"\d[\d.]*×|\d[\d.]* %|KL \d\.\d+|\d+ of \d+", result.replace("KL 0.05", ""))
        assert figures, result
        for figure in figures:
            assert figure in page, figure
