"""Prompts in files: text, or JSON with chat messages."""

from __future__ import annotations

import json
from pathlib import Path

from semshare_core.errors import ConfigError
from semshare_core.prompt.encode import Chat, Prompt


def read_prompt(path: Path) -> Prompt:
    """The prompt in a file. The name of a file of messages ends in ``.json``; any other file is a text.

    JSON is a list of chat messages, or an object with ``messages`` and, if you like, ``tools``, as in a request to a
    chat API.

    Raises:
        ConfigError: the file cannot be read, or its JSON is neither of both.
    """
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix.lower() != ".json":
            return text
        content = json.loads(text)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the prompt {path} cannot be read: {error}.") from error
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path} is not JSON: {error}. Give a file with a text another ending, as .txt.") from error
    if isinstance(content, list):
        content = {"messages": content}
    if not isinstance(content, dict) or not isinstance(content.get("messages"), list):
        raise ConfigError(f"{path} has no messages: write a list of them, or an object with 'messages' and 'tools'.")
    return Chat(content["messages"], content.get("tools") or ())
