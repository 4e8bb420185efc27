"""Chat messages through the tokenizer's template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from semshare_core.errors import PromptError

Messages = Sequence[Mapping[str, Any]]

_NO_WORDS: tuple[dict[str, Any], ...] = ({"content": ""}, {"content": None}, {})


def template_of(tokenizer: PreTrainedTokenizerBase, tools: Messages) -> str:
    """The template that ``tokenizer`` applies. If it has several, the one for ``tools``."""
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            "the tokenizer has no chat template: pass text instead of messages, or set tokenizer.chat_template."
        )
    try:
        return str(tokenizer.get_chat_template(None, list(tools) or None))
    except ValueError as error:  # several templates, and none of them the default
        raise PromptError(f"the tokenizer's chat templates fit no prompt: {error}") from error


def check_messages(messages: Messages) -> None:
    """Raises :class:`PromptError` unless each message has a role, and content or calls of tools."""
    if not messages:
        raise PromptError("the prompt is empty: pass at least one message.")
    if isinstance(messages, str | Mapping):
        raise PromptError(f"messages must be a list of mappings with 'role' and 'content'; got {messages!r}.")
    for number, message in enumerate(messages):
        if (
            not isinstance(message, Mapping)
            or not isinstance(message.get("role"), str)
            or (message.get("content") is None and not message.get("tool_calls"))
        ):
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")


def check_tools(tools: Messages) -> None:
    """Raises :class:`PromptError` unless these are schemas of functions."""
    if isinstance(tools, str | Mapping) or not all(isinstance(tool, Mapping) for tool in tools):
        raise PromptError(
            f"tools={tools!r} must be a list of OpenAI's function schemas; "
            "transformers.utils.get_json_schema(function) makes one of a function."
        )


def continues(messages: Messages) -> bool:
    """Whether the last message is the beginning of the answer: the assistant's.

    Raises:
        PromptError: it calls tools, so there are no words that could go on.
    """
    last = messages[-1]
    if last.get("role") != "assistant":
        return False
    if last.get("tool_calls"):
        raise PromptError("the last message calls tools: put their results behind it, as messages of role 'tool'.")
    return True


def render(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Messages, *, answer: bool) -> str:
    """The text of ``messages``.

    ``answer``: the text ends where the answer goes on: behind the head of the assistant's turn, or behind its words if
    the last message is the assistant's.

    A message that calls tools may have no words: its content is empty, None or missing. Templates differ in which of
    these they take. The first one is used that brings the calls into the text.

    Raises:
        PromptError: the template refuses the messages.
    """
    wordless = [bool(message.get("tool_calls")) and not message.get("content") for message in messages]
    if not any(wordless):
        return _apply(tokenizer, messages, tools, answer)
    names = {name for message in messages for name in _called(message)}
    silent = [
        {key: value for key, value in message.items() if key != "tool_calls"}
        | {"content": message.get("content") or ""}
        for message in messages
    ]
    bare = ""
    with suppress(PromptError):
        bare = _apply(tokenizer, silent, tools, answer)
    texts: list[str] = []
    refusals: list[PromptError] = []
    for fill in _NO_WORDS:
        filled = [
            {key: value for key, value in message.items() if key != "content"} | fill if empty else message
            for message, empty in zip(messages, wordless, strict=True)
        ]
        try:
            texts.append(_apply(tokenizer, filled, tools, answer))
        except PromptError as error:
            refusals.append(error)
        else:
            if all(texts[-1].count(name) > bare.count(name) for name in names):
                return texts[-1]
    if not texts:
        raise refusals[0]
    return texts[0]  # the template leaves calls out


def _apply(tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Messages, answer: bool) -> str:
    go_on = answer and continues(messages)
    options: dict[str, Any] = {
        "tools": list(tools) or None,
        "add_generation_prompt": answer and not go_on,
        "continue_final_message": go_on,
    }
    try:
        if any("content" in message and message["content"] is None for message in messages):
            # apply_chat_template leaves out what is None, which some templates ask for
            template = template_of(tokenizer, tools)
            texts, _ = render_jinja_template(
                [list(messages)], chat_template=template, **options, **tokenizer.special_tokens_map
            )
            return str(texts[0])
        return str(tokenizer.apply_chat_template(list(messages), tokenize=False, **options))
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
