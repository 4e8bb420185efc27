"""Prompts in: text, chat messages or token ids become ids, and the place where the question begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from semshare_core.errors import PromptError
from semshare_core.match.plan import Tokens
from semshare_core.match.prefix import common_prefix

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]]

MAX_QUESTION_TOKENS = 256


@dataclass(frozen=True)
class EncodedPrompt:
    """Token ids int64 [n] and the index of the question's first token (n: no question is known)."""

    ids: Tokens
    question: int

    def fresh_from(self, tail: int) -> int:
        """First token that must be computed: the question, or the last ``tail`` tokens if that is more."""
        n = len(self.ids)
        question = self.question if n - self.question <= MAX_QUESTION_TOKENS else n
        return max(0, min(question, n - tail))


def encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, vocabulary: int, context: int) -> EncodedPrompt:
    """Turn a prompt into ids.

    A string is taken as it is and its last paragraph is the question; messages go through the chat template and the
    last one is the question, or its last paragraph where it is the only one or longer than a question is; ids are taken
    as they are.

    Raises:
        PromptError: empty, unknown ids, malformed messages, no chat template, or longer than the context.
    """
    if isinstance(prompt, str):
        encoded = _encode_text(prompt, tokenizer)
    elif isinstance(prompt, Mapping):
        raise PromptError("a single message must stand in a list of messages: pass [message].")
    elif not hasattr(prompt, "__len__"):
        raise PromptError(f"the prompt must be text, chat messages or token ids; got {type(prompt).__name__}.")
    elif len(prompt) and isinstance(prompt[0], Mapping):
        encoded = _encode_messages(prompt, tokenizer)  # type: ignore[arg-type]
    else:
        try:
            ids = np.asarray(prompt)
        except ValueError as error:
            raise PromptError("token ids must be a flat sequence of integers; got nested ones.") from error
        if ids.size and (ids.ndim != 1 or ids.dtype.kind not in "iu"):
            raise PromptError("token ids must be a flat sequence of integers; got " + repr(type(prompt).__name__))
        encoded = EncodedPrompt(ids.astype(np.int64), len(ids))
    ids = encoded.ids
    if not len(ids):
        raise PromptError("the prompt is empty: pass text, messages or at least one token id.")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise PromptError(f"token ids must lie in [0, {vocabulary}); got {int(ids.min())} to {int(ids.max())}.")
    if len(ids) >= context:
        raise PromptError(
            f"the prompt has {len(ids)} tokens but the model's context is {context}, answer included: shorten it."
        )
    return encoded


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase) -> EncodedPrompt:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"the prompt is not valid Unicode ({error.reason} at {error.start}): repair it.") from error
    ids = np.asarray(tokenizer(text)["input_ids"], np.int64)
    border = _last_border(text)
    if border is None:
        return EncodedPrompt(ids, len(ids))
    before = np.asarray(tokenizer(text[:border])["input_ids"], np.int64)
    return EncodedPrompt(ids, common_prefix(ids, before))


def _encode_messages(messages: Sequence[Mapping[str, Any]], tokenizer: PreTrainedTokenizerBase) -> EncodedPrompt:
    if not getattr(tokenizer, "chat_template", None):
        raise PromptError(
            "the tokenizer has no chat template: pass text instead of messages, or set tokenizer.chat_template."
        )
    for number, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str) or "content" not in message:
            raise PromptError(f"message {number} must be a mapping with 'role' and 'content'; got {message!r}.")

    def render(part: Sequence[Mapping[str, Any]], answer: bool) -> Tokens:
        try:
            text = tokenizer.apply_chat_template(list(part), tokenize=False, add_generation_prompt=answer)
        except TemplateError as error:
            raise PromptError(f"the model's chat template refuses these messages: {error}.") from error
        return np.asarray(tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def behind(part: Sequence[Mapping[str, Any]]) -> int:
        """Index of the first token that ``part`` of the messages lacks; n if the template refuses that part alone."""
        try:
            return common_prefix(ids, render(part, False))
        except PromptError:
            return len(ids)

    ids = render(messages, True)
    *earlier, last = messages
    if earlier and len(ids) - (question := behind(earlier)) <= MAX_QUESTION_TOKENS:
        return EncodedPrompt(ids, question)
    border = _last_border(last["content"]) if isinstance(last["content"], str) else None
    if border is None:
        return EncodedPrompt(ids, len(ids))
    return EncodedPrompt(ids, behind([*earlier, {**last, "content": last["content"][:border]}]))


def _last_border(text: str) -> int | None:
    """Where the last paragraph begins, behind the blank line before it; None if there is one paragraph only."""
    found = text.rstrip().rfind("\n\n")
    return found + 2 if found >= 0 else None
