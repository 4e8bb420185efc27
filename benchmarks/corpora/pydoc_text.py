"""Python's own documentation: what `pydoc` says about modules of the standard library. On every machine, no download.

The text differs between Python versions, so results are comparable only within one.
"""

from __future__ import annotations

import importlib
import pydoc
import re
from collections.abc import Sequence

from benchmarks.corpora.errors import CorpusUnavailable

MODULES = (
    "argparse",
    "collections",
    "configparser",
    "csv",
    "datetime",
    "difflib",
    "email.message",
    "fractions",
    "http.client",
    "json",
    "logging",
    "pathlib",
    "random",
    "shutil",
    "smtplib",
    "statistics",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "zipfile",
)
"""Modules with much prose in them, from different fields."""

_SECTION = re.compile(r"^(?=[A-Z][A-Z ]+$)", re.MULTILINE)
_ADDRESS = re.compile(r" at 0x[0-9A-Fa-f]+")
_CLASS_BAR = re.compile(r"^ *\|(?:  )?", re.MULTILINE)
_RULE = re.compile(r"^ *-{5,}$", re.MULTILINE)
_LEFT_OUT = ("MODULE REFERENCE", "FILE", "VERSION", "DATA", "CREDITS")


def module_text(name: str) -> str:
    """What `pydoc` prints for a module, less what tells about this machine and what is alike for all."""
    try:
        module = importlib.import_module(name)
    except ImportError as error:
        raise CorpusUnavailable(f"this Python has no module {name}: {error}") from error
    rendered = pydoc.plain(pydoc.render_doc(module))
    return _ADDRESS.sub("", "".join(part for part in _SECTION.split(rendered) if not part.startswith(_LEFT_OUT)))


def passages(name: str, min_words: int = 60, max_words: int = 120) -> list[str]:
    """The documentation of a module in passages of whole paragraphs.

    A paragraph longer than `max_words` is split between lines; the rest that stays under `min_words` joins its
    predecessor, so that nothing is lost.
    """
    done: list[str] = []
    gathered: list[str] = []
    for piece in _pieces(module_text(name), max_words):
        if gathered and _words(*gathered, piece) > max_words and _words(*gathered) >= min_words:
            done.append("\n\n".join(gathered))
            gathered = []
        gathered.append(piece)
    rest = "\n\n".join(gathered)
    if done and _words(rest) < min_words:
        done[-1] += "\n\n" + rest
    elif rest:
        done.append(rest)
    return done


def texts(names: Sequence[str] = MODULES) -> list[str]:
    """The documentation of several modules, one text each, cleaned of rules and class bars."""
    return ["\n\n".join(_paragraphs(module_text(name))) for name in names]


def _paragraphs(text: str) -> list[str]:
    cleaned = _RULE.sub("", _CLASS_BAR.sub("", text))
    found = (paragraph.strip("\n") for paragraph in re.split(r"\n\s*\n", cleaned))
    return [paragraph for paragraph in found if paragraph.strip()]


def _pieces(text: str, max_words: int) -> list[str]:
    """Paragraphs, the long ones split between lines."""
    pieces: list[str] = []
    for paragraph in _paragraphs(text):
        lines: list[str] = []
        for line in paragraph.split("\n"):
            if lines and _words(*lines, line) > max_words:
                pieces.append("\n".join(lines))
                lines = []
            lines.append(line)
        pieces.append("\n".join(lines))
    return pieces


def _words(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)
