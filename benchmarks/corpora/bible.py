"""The same chapters in two translations: one meaning, other words (the King James Version and the World English Bible).

Both are in the public domain. They come as Debian packages of modules of the SWORD project.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from benchmarks.corpora.fetch import Pin, fetch_unpacked
from benchmarks.corpora.row import Row
from benchmarks.corpora.ztext import read_chapters

Translation = Literal["kjv", "web"]
Chapters = Mapping[str, tuple[str, ...]]
"""Chapter id (as in "Gen.1") → its verses."""

PINS: dict[Translation, Pin] = {
    "kjv": Pin(
        "debian", "sword-text-kjv", "14.3-1", "9f463f28ce665f6f528fc723179722bced880a4c5485f7a41bf742838315de57"
    ),
    "web": Pin(
        "debian", "sword-text-web", "426.0-1", "930b23670b352f0829a306501de4bebb5e654a2df02cde2cbe86b802177868e1"
    ),
}
_MODULES: dict[Translation, str] = {"kjv": "engKJV2006eb", "web": "engWEB2015eb"}
_MODULE_ROOT = "usr/share/sword/modules/texts/ztext"


@dataclass(frozen=True)
class ChapterPair:
    """One chapter twice; verse i of `reference` says what verse i of `target` says."""

    id: str
    reference: tuple[str, ...]
    target: tuple[str, ...]

    @property
    def reference_text(self) -> str:
        return "\n".join(self.reference)

    @property
    def target_text(self) -> str:
        return "\n".join(self.target)


@functools.cache
def chapters(translation: Translation) -> Chapters:
    """All chapters of a translation. Raises `CorpusUnavailable` where the package cannot be had."""
    return read_chapters(fetch_unpacked(PINS[translation]) / _MODULE_ROOT / _MODULES[translation])


def chapter_texts(translation: Translation = "web", min_words: int = 150) -> list[str]:
    """The chapters as plain texts, a verse a line, without the very short ones."""
    texts = ["\n".join(verses) for verses in chapters(translation).values()]
    return [text for text in texts if len(text.split()) >= min_words]


def chapter_pairs(count: int = 24, min_words: int = 700, max_words: int = 1300) -> list[ChapterPair]:
    """`count` chapters with `min_words`..`max_words` words in both translations, spread over the books."""
    return select_pairs(chapters("kjv"), chapters("web"), count, min_words, max_words)


def select_pairs(
    reference: Chapters, target: Chapters, count: int, min_words: int, max_words: int
) -> list[ChapterPair]:
    """The selection behind `chapter_pairs`, on any two translations; the same for the same arguments, always.

    Chapters whose verses are counted differently are left out, so that the pairs carry an alignment by verse.
    """
    by_book: dict[str, list[ChapterPair]] = {}
    for name, verses in reference.items():
        pair = ChapterPair(name, verses, target.get(name, ()))
        lengths = (len(pair.reference_text.split()), len(pair.target_text.split()))
        if len(pair.reference) == len(pair.target) and all(min_words <= words <= max_words for words in lengths):
            by_book.setdefault(name.split(".")[0], []).append(pair)
    order = {name: position for position, name in enumerate(reference)}
    return sorted(_spread(list(by_book.values()), count), key=lambda pair: order[pair.id])


def _spread(books: Sequence[Sequence[ChapterPair]], count: int) -> list[ChapterPair]:
    """The middle chapter of each book first, then a second of each, and so on; evenly spaced books at the end."""
    rounds = [_from_the_middle(book) for book in books]
    chosen: list[ChapterPair] = []
    for depth in range(max(map(len, rounds), default=0)):
        layer = [book[depth] for book in rounds if len(book) > depth]
        missing = count - len(chosen)
        if missing < len(layer):
            layer = [layer[position * len(layer) // missing] for position in range(missing)]
        chosen += layer
    return chosen


def _from_the_middle(book: Sequence[ChapterPair]) -> list[ChapterPair]:
    middle = len(book) // 2
    return sorted(book, key=lambda pair: (abs(book.index(pair) - middle), book.index(pair)))


def rows(pairs: Sequence[ChapterPair] | None = None) -> list[Row]:
    """The pairs as corpus rows (reference = King James, target = World English), without questions."""
    chosen = chapter_pairs() if pairs is None else pairs
    return [Row(id=f"bible-{pair.id}", reference=pair.reference_text, target=pair.target_text) for pair in chosen]
