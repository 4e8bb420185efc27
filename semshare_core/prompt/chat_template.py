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
    try:
        return str(tokenizer.get_chat_template(None, list(tools) or None))
    except ValueError as error:  # several templates, and none of them the default
        raise PromptError(f"the tokenizer's chat templates fit no prompt: {error}") from error


def check_messages(messages: Messages) -> None:
    """Raises :class:`PromptError` unless these are messages: a role and content each, which calls of tools may lack."""
    if not messages:
        raise PromptError("the prompt is empty: pass at least one message.")
    if isinstance(messages, str | Mapping):
        raise PromptError(f"messages must be a list of mappings with 'role' and 'content'; got {messages!r}.")
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")
        if message.get("content") is None and not message.get("tool_calls"):
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")


def check_tools(tools: Messages) -> None:
    """Raises :class:`PromptError` unless these are schemas of functions."""
    if isinstance(tools, str | Mapping) or not all(isinstance(tool, Mapping) for tool in tools):
        raise PromptError(
            f"tools={tools!r} must be a list of OpenAI's function schemas; "
            "transformers.utils.get_json_schema(function) makes one of a function."
        )


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
    names = {name for message in messages for name in _called(message)}
    silent = [{**_without("tool_calls", message), "content": message.get("content") or ""} for message in messages]
    bare = _attempt(tokenizer, silent, tools, answer)
    said = bare if isinstance(bare, str) else ""
    told: list[str] = []
    refusals: list[PromptError] = []
    for fill in _NO_WORDS:
        filled = [
            {**_without("content", message), **fill} if empty else message
            for message, empty in zip(messages, wordless, strict=True)
        ]
        text = _attempt(tokenizer, filled, tools, answer)
        if isinstance(text, PromptError):
            refusals.append(text)
        elif all(text.count(name) > said.count(name) for name in names):
            return text
        else:
            told.append(text)
    if not told:
        raise refusals[0]
    return told[0]  # a template that tells of no calls


_NO_WORDS: tuple[dict[str, Any], ...] = ({"content": ""}, {"content": None}, {})


def _without(name: str, message: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in message.items() if key != name}


def _attempt(
    tokenizer: PreTrainedTokenizerBase, messages: Messages, tools: Messages, answer: bool
) -> str | PromptError:
    """The text of ``messages``, or why there is none."""
    try:
        return _rendered(tokenizer, messages, tools, answer)
    except PromptError as error:
        return error


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
