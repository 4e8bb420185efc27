"""Chat messages through the tokenizer's template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from semshare_core.errors import PromptError

Messages = Sequence[Mapping[str, Any]]


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Messages) -> str:
    """The template that ``tokenizer`` applies, of several the one for ``tools``."""
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            "the tokenizer has no chat template: pass text instead of messages, or set tokenizer.chat_template."
        )
    return str(tokenizer.get_chat_template(None, list(tools) or None))


def check_messages(messages: Messages) -> None:
    """Raises :class:`PromptError` unless these are messages: a role and content each, which calls of tools may lack."""
    if not messages:
        raise PromptError("the prompt is empty: pass at least one message.")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")
        if message.get("content") is None and not message.get("tool_calls"):
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")


def continues(messages: Messages) -> bool:
    """Whether the last message is the beginning of the answer.

    Raises:
        PromptError: it is the assistant's and calls tools, which says nothing that could go on.
    """
    last = messages[-1]
    if last.get("role") != "assistant":
        return False
    if last.get("tool_calls"):
        raise PromptError("the last message calls tools: put their results behind it, as messages of role 'tool'.")
    return True


def rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Messages, *, answer: bool) -> str:
    """The text of ``messages``.

    ``answer``: up to where the answer goes on, behind the head of the assistant's turn, or behind what it said already
    if the last message is its. Calls of tools without words may have content that is empty, missing or None. Templates
    differ in which of these they take: the first that brings the calls into the text is used.

    Raises:
        PromptError: the template refuses the messages.
    """
    wordless = [bool(message.get("tool_calls")) and not message.get("content") for message in messages]
    if not any(wordless):
        return _rendered(tokenizer, messages, tools, answer)
    names = [name for message in messages for name in _called(message)]
    first: str | PromptError | None = None
    for fill in ({"content": ""}, {"content": None}, {}):
        told = [
            {**{name: value for name, value in message.items() if name != "content"}, **fill} if empty else message
            for message, empty in zip(messages, wordless, strict=True)
        ]
        try:
            text = _rendered(tokenizer, told, tools, answer)
        except PromptError as error:
            first = error if first is None else first
            continue
        if all(name in text for name in names):
            return text
        first = text if not isinstance(first, str) else first
    if isinstance(first, str):  # a template that tells of no calls
        return first
    assert first is not None
    raise first


def _rendered(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Messages, answer: bool) -> str:
    go_on = answer and continues(messages)
    how: dict[str, Any] = {"add_generation_prompt": answer and not go_on, "continue_final_message": go_on}
    told = list(tools) or None
    try:
        if any("content" in message and message["content"] is None for message in messages):
            # apply_chat_template leaves out what is None, which some templates ask for
            template = template_of(tokenizer, tools)
            texts, _ = render_jinja_template(
                [list(messages)], tools=told, chat_template=template, **how, **tokenizer.special_tokens_map
            )
            return str(texts[0])
        return str(tokenizer.apply_chat_template(list(messages), tools=told, tokenize=False, **how))
    except (TemplateError, TypeError) as error:  # TypeError: content of a kind that the template cannot join
        raise PromptError(f"the model's chat template refuses these messages: {error}.") from error
    except ValueError as error:
        if not go_on:
            raise
        raise PromptError(
            "the last message is the assistant's, and the model's chat template does not let it go on: leave it out, "
            f"or end with a user's message ({str(error).splitlines()[0]})."
        ) from error


def _called(message: Mapping[str, Any]) -> list[str]:
    """The names of the tools that a message calls."""
    calls = [call for call in message.get("tool_calls") or () if isinstance(call, Mapping)]
    functions = [call.get("function", call) for call in calls]
    return [str(function["name"]) for function in functions if isinstance(function, Mapping) and "name" in function]
