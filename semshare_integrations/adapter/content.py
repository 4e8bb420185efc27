"""The text of a message's content: a string, or blocks as OpenAI, Anthropic and LangChain write them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Block = str | Mapping[str, Any]

_TEXT = ("text", "text-plain", "output_text", "input_text")
_MEDIA = (
    "image",
    "image_url",
    "input_image",
    "audio",
    "input_audio",
    "video",
    "file",
    "input_file",
    "document",
    "media",
)


def text_of(content: str | Sequence[Block], whose: str) -> str:
    """The text of a message that somebody wrote.

    Raises:
        ValueError: a block is not text. The message begins with ``whose``, for example "a user message".
    """
    return content if isinstance(content, str) else "\n".join(_said(block, whose) for block in content)


def tool_text(content: str | Sequence[Block], whose: str) -> str:
    """The text of a tool's result. A block of an unknown kind is written as JSON.

    Raises:
        ValueError: a block is an image, sound or file.
    """
    if isinstance(content, str):
        return content
    return "\n".join(
        json.dumps(block, ensure_ascii=False)
        if _text_of_block(block) is None and _kind(block) not in _MEDIA
        else _said(block, whose)
        for block in content
    )


def answer_text(content: str | Sequence[Block], whose: str, refusal: Any = None) -> str:
    """The text of an assistant's message, also of another provider's.

    Other blocks are left out: thoughts, tools that the provider ran, and calls. A refusal counts as text if there is
    no other.

    Raises:
        ValueError: a block is an image, sound or file.
    """
    parts: list[str] = []
    goes_on = False  # citations split a sentence into blocks
    for block in [content] if isinstance(content, str) else content:
        text = _text_of_block(block)
        if text is None and _kind(block) in _MEDIA:
            raise _refused(block, whose)
        if not isinstance(block, str) and _kind(block) == "refusal":
            refusal = block.get("refusal")
        if text is not None and goes_on:
            parts[-1] += text
        elif text:
            parts.append(text)
        goes_on = text is not None and bool(parts)
    return "\n".join(parts) or (refusal if isinstance(refusal, str) else "")


def _said(block: Block, whose: str) -> str:
    text = _text_of_block(block)
    if text is None:
        raise _refused(block, whose)
    return text


def _kind(block: Block) -> Any:
    return "text" if isinstance(block, str) else block.get("type")


def _text_of_block(block: Block) -> str | None:
    """The text of a text block; None for another kind. Some providers leave the type out."""
    if isinstance(block, str):
        return block
    text = block.get("text")
    if _kind(block) in _TEXT or (_kind(block) is None and isinstance(text, str)):
        return text if isinstance(text, str) else ""
    return None


def _refused(block: Block, whose: str) -> ValueError:
    return ValueError(
        f"the content of {whose} has a block of type {_kind(block)!r}, but the model reads only text: leave the block "
        "out or describe it in words."
    )
