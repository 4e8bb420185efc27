"""A small reader of zText modules (the SWORD project's compressed Bible texts with OSIS markup).

Three files a testament: `.bzz` holds zlib-compressed blocks, `.bzs` says where each block lies, and `.bzv` says, verse
by verse, which slice of which block is its text. The chapters announce themselves in the markup, so no table of how
many verses each has is needed.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from benchmarks.corpora.errors import CorpusUnavailable

_BLOCK = struct.Struct("<III")  # offset, compressed size, size
_VERSE = struct.Struct("<IIH")  # block, offset, length
_CHAPTER = re.compile(r'<chapter\b[^>]*\bsID="([^"]+)"[^>]*/>')
_END = re.compile(r'<chapter\b[^>]*\beID="[^"]+"[^>]*/>')
_NOT_TEXT = re.compile(r"<(note|title|rdg|speaker)\b[^>]*(?<!/)>.*?</\1>", re.DOTALL)
_BREAK = re.compile(r"</?(?:l|lb|lg|p|item|list)\b[^>]*>")
_TAG = re.compile(r"<[^>]*>")
_SPACES = re.compile(r"\s+")
_STRAY_SPACE = re.compile(r" (?=[,.;:!?\u2019\u201d)])")  # left where a note stood before punctuation
_ENTITIES = {"&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&amp;": "&"}


def read_chapters(folder: Path) -> dict[str, tuple[str, ...]]:
    """Chapter id (as in "Gen.1") → the plain text of its verses, in the order of the module."""
    chapters: dict[str, list[str]] = {}
    for testament in ("ot", "nt"):
        current: list[str] | None = None
        for markup in _entries(folder, testament):
            if start := _CHAPTER.search(markup):
                current = chapters.setdefault(start.group(1), [])
                markup = markup[start.end() :]
            if current is None:
                continue
            if text := plain(_END.split(markup)[0]):
                current.append(text)
            if _END.search(markup):
                current = None
    return {name: tuple(verses) for name, verses in chapters.items() if verses}


def plain(markup: str) -> str:
    """The words alone: notes, titles and variant readings go with their content, all other tags without."""
    text = _TAG.sub("", _BREAK.sub(" ", _NOT_TEXT.sub(" ", markup)))
    for entity, character in _ENTITIES.items():
        text = text.replace(entity, character)
    return _STRAY_SPACE.sub("", _SPACES.sub(" ", text)).strip()


def _entries(folder: Path, testament: str) -> Iterator[str]:
    try:
        index, blocks, packed = ((folder / f"{testament}.{end}").read_bytes() for end in ("bzv", "bzs", "bzz"))
        texts = [zlib.decompress(packed[at : at + size]) for at, size, _ in _BLOCK.iter_unpack(blocks)]
        for block, at, size in _VERSE.iter_unpack(index):
            yield texts[block][at : at + size].decode("utf-8") if size else ""
    except (OSError, struct.error, zlib.error, IndexError, UnicodeDecodeError) as error:
        raise CorpusUnavailable(f"{folder.name}: {testament} cannot be read as a zText module: {error}") from error
