"""The readers of what agents have in their prompts, on made-up files. Nothing is downloaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.corpora import CorpusUnavailable
from benchmarks.corpora.agent_material import (
    MIN_SOURCE_LINES,
    Tool,
    read_memories,
    read_results,
    read_sources,
    read_tools,
)

TOOL = {
    "name": "cat",
    "description": "This tool belongs to the file system. Tool description: Show a file.",
    "parameters": {"type": "dict", "properties": {"file_name": {"type": "string"}}},
}
SILENT = {"name": "pwd", "description": "Say where we are.", "parameters": {"properties": {}}}


def test_tools_have_their_own_description_and_arguments() -> None:
    first = json.dumps(TOOL) + "\n" + json.dumps(SILENT) + "\n"
    second = json.dumps(TOOL | {"description": "Another."})
    assert read_tools([first, second]) == (Tool("cat", "Show a file.", ("file_name",)),)


@pytest.mark.parametrize("content", ["no json", '{"name": "cat"}', ""])
def test_another_file_than_tools_is_an_unavailable_corpus(content: str) -> None:
    with pytest.raises(CorpusUnavailable, match="bfcl-eval"):
        read_tools([content])


def test_results_are_printed_without_the_places_of_attacks() -> None:
    mails = """
initial_emails:
  - id_: "0"
    sender: a@example.org
    recipients: [b@example.org, c@example.org]
    cc: []
    subject: Lunch
    body: "Hello {injected}\\nSee you."
  - no_text: 1
"""
    assert read_results([mails]) == (
        "id_: 0\nsender: a@example.org\nrecipients: b@example.org, c@example.org\nsubject: Lunch\nHello \nSee you.",
    )
    with pytest.raises(CorpusUnavailable, match="not a YAML file"):
        read_results(["a: [unclosed"])
    with pytest.raises(CorpusUnavailable, match="no results"):
        read_results(["a: 1"])


def test_sources_are_the_long_files_in_order(tmp_path: Path) -> None:
    package = tmp_path / "lib"
    package.mkdir()
    for name, lines in (("b.py", MIN_SOURCE_LINES), ("a.py", MIN_SOURCE_LINES + 1), ("short.py", 3)):
        (package / name).write_text("x = 1\n" * lines)
    assert [source.path for source in read_sources(package)] == ["lib/a.py", "lib/b.py"]
    with pytest.raises(CorpusUnavailable, match="has no Python files"):
        read_sources(tmp_path / "nothing")


def test_memories_are_whole_sentences_of_some_length() -> None:
    text = "Hi. I have lived in this small town for twenty years now! Good."
    file = json.dumps({"question": [[{"role": "user", "content": text}]]})
    assert read_memories([file, file]) == ("I have lived in this small town for twenty years now!",)
