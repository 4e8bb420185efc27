"""Prompts in: text, chat messages or token ids become ids, and the place where the question begins."""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from transformers import PreTrainedTokenizerBase

from semshare_core.errors import PromptError, PromptTooLongError
from semshare_core.prompt.chat_template import Messages, check_messages, check_tools, continues, render
from semshare_core.prompt.control_tokens import ControlTokens, control_tokens, texts_of
from semshare_core.prompt.ids import ids_of
from semshare_core.prompt.last_answer import CUE_TOKENS, begin_of_answer, last_answer
from semshare_core.prompt.own_tokenizer import decode_ids, encode_text, own_tokenizer
from semshare_core.tokens import Tokens, common_prefix


@dataclass(frozen=True)
class Chat:
    """Chat messages together with tools (OpenAI's function schemas), which go into the chat template, too.

    ``control_tokens``: whether a control token that a message spells, such as ``<|im_start|>``, is one. By default it
    is text, as it must be where others wrote the messages.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] = ()
    control_tokens: bool = False


Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]] | Chat

MAX_QUESTION_TOKENS = 256

_BLANK_LINE = re.compile(r"\r?\n[ \t]*\r?\n\s*")
_LINE_END = re.compile(r"\r?\n\s*")
_CUE_CHARACTERS = 32
_longest: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, int]] = WeakKeyDictionary()
_ALIKE = 64  # tokens: so many equal ones show that a text's end is tokenized as in the whole text


@dataclass(frozen=True)
class EncodedPrompt:
    """A prompt as token ids.

    Attributes:
        ids: int64 [n].
        question: index of the question's first token; n: no question is known.
        last_answer: 64 tokens from where the model's last answer begins; empty if none is known.
        from_ids: whether the caller passed ids.
        control: tells text from control tokens, also in an answer that comes back in a message; None: all are tokens.
    """

    ids: Tokens
    question: int
    last_answer: range = range(0)
    from_ids: bool = False
    control: ControlTokens | None = None

    def fresh_from(self, tail: int) -> int:
        """First token that must be computed: of the question at most ``MAX_QUESTION_TOKENS``, or ``tail`` if more."""
        n = len(self.ids)
        return max(0, min(_computed_from(self.question, n), n - tail))


def encode(prompt: Prompt, tokenizer: PreTrainedTokenizerBase, vocabulary: int, context: int) -> EncodedPrompt:
    """Turn a prompt into ids.

    A text is taken as it is, control tokens included; its question is what :func:`question_start` says. Messages go
    through the chat template, and what they spell like a control token is text
    (``semshare_core.prompt.control_tokens``). The last message is the question, or the part of it that
    :func:`question_start` finds if it is the only message or longer than a question may be. Messages that end with the
    assistant's are the beginning of the answer. Ids are taken as they are; their question is that of their text.

    Raises:
        PromptError: empty, unknown ids, malformed messages, no chat template, or longer than the context.
    """
    if isinstance(prompt, str):
        encoded = _encode_text(prompt, tokenizer, context)
    elif isinstance(prompt, Chat):
        encoded = _encode_messages(prompt.messages, tokenizer, context, prompt.tools, prompt.control_tokens)
    elif isinstance(prompt, Sequence) and len(prompt) and isinstance(prompt[0], Mapping):
        encoded = _encode_messages(prompt, tokenizer, context)  # type: ignore[arg-type]
    else:
        ids = ids_of(prompt)
        encoded = EncodedPrompt(ids, len(ids), from_ids=True)
    ids = encoded.ids
    if not len(ids):
        raise PromptError("the prompt is empty: pass text, messages or at least one token id.")
    if ids.min() < 0 or ids.max() >= vocabulary:
        raise PromptError(f"token ids must lie in [0, {vocabulary}); got {int(ids.min())} to {int(ids.max())}.")
    if len(ids) >= context:
        raise PromptTooLongError(
            f"the prompt has {len(ids)} tokens but the model's context is {context}, answer included: shorten it."
        )
    if encoded.from_ids:
        question = _question_of(ids, tokenizer)
        return replace(encoded, question=question, last_answer=_last_answer(ids, question))
    return encoded


def question_start(text: str) -> int | None:
    """Index of the character at which the question begins; None if the text has a single line.

    The question is the last paragraph, or the last line of a text without blank lines. A last paragraph of few
    characters that asks nothing itself, such as "Answer:", is a cue: the question begins one paragraph before it.
    """
    end = len(text.rstrip())
    for border in (_BLANK_LINE, _LINE_END):
        starts = [0, *(match.end() for match in border.finditer(text, 0, end))]
        if len(starts) > 1:
            return starts[-2] if _is_cue(text[starts[-1] : end]) else starts[-1]
    return None


def _is_cue(paragraph: str) -> bool:
    return len(paragraph) <= _CUE_CHARACTERS and "?" not in paragraph


def _question_length(tail: str) -> int | None:
    """How many characters before its end the question begins, of a text that ends so; None if the tail is too short.

    Blank lines at the tail's begin are not counted, because the text may have more of them.
    """
    begin, end = len(tail) - len(tail.lstrip()), len(tail.rstrip())
    starts = [match.end() for match in _BLANK_LINE.finditer(tail, begin, end)]
    if starts and _is_cue(tail[starts[-1] : end]):
        starts.pop()  # the question is the paragraph before
    return len(tail) - starts[-1] if starts else None


def _encode_text(text: str, tokenizer: PreTrainedTokenizerBase, context: int) -> EncodedPrompt:
    _check_text(text, "the prompt", tokenizer, context)
    ids = np.asarray(encode_text(tokenizer, text, special=True), np.int64)
    start, question = question_start(text), len(ids)
    if start is not None:
        question = _tokens_before(start, text, ids, tokenizer)
    return EncodedPrompt(ids, question, _last_answer(ids, question))


def _tokens_before(start: int, text: str, ids: Tokens, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many of the tokens ``ids`` of ``text`` are those of ``text[:start]``, too.

    A long text takes milliseconds to tokenize, and how its end is tokenized does not depend on its begin. So the end is
    tokenized alone, and counts if many of its tokens are those that it has in the whole text.
    """
    at = max(0, len(ids) - 2 * MAX_QUESTION_TOKENS)
    tail = decode_ids(tokenizer, ids[at:].tolist(), special=True)
    before = len(text) - len(tail)
    if at and before < start and text.endswith(tail):
        same = common_prefix(ids[at:], np.asarray(encode_text(tokenizer, tail[: start - before]), np.int64))
        if same >= _ALIKE:
            return at + same
    return common_prefix(ids, np.asarray(encode_text(tokenizer, text[:start], special=True), np.int64))


def _last_answer(ids: Tokens, question: int) -> range:
    """See :func:`last_answer`; of a long question the part that is not computed may hold the answer."""
    return last_answer(ids, _computed_from(question, len(ids)))


def _computed_from(question: int, n: int) -> int:
    """Where the part of a question begins that is computed, if the prompt has ``n`` tokens."""
    return max(question, n - MAX_QUESTION_TOKENS)


def _question_of(ids: Tokens, tokenizer: PreTrainedTokenizerBase) -> int:
    """Where the shortest end of ``ids`` begins that decodes to the question's text."""
    n, own = len(ids), own_tokenizer(tokenizer)

    def text_of(start: int) -> str:
        return str(own.decode(ids[start:], skip_special_tokens=True, clean_up_tokenization_spaces=False))

    length = _question_length(text_of(max(0, n - 2 * MAX_QUESTION_TOKENS)))
    if length is None:
        text = text_of(0)
        start = question_start(text)
        if start is None:
            return n
        length = len(text) - start
    first = max(0, n - MAX_QUESTION_TOKENS)
    shorter = bisect_left(range(first, n), 1 - length, key=lambda at: -len(text_of(at)))
    return max(first, first + shorter - 1)


def _encode_messages(
    messages: Messages,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    tools: Messages = (),
    trusted: bool = False,
) -> EncodedPrompt:
    check_messages(messages)
    check_tools(tools)
    _check_text("".join(texts_of([*messages, *tools])), "a message", tokenizer, context)
    control, mark = control_tokens(tokenizer, tools), ""
    if not trusted:
        messages, tools, mark = control.marked(messages, tools)

    def tokens(part: Messages, answer: bool) -> Tokens:
        text = render(tokenizer, part, tools, answer=answer)
        return np.asarray(control.tokenize(tokenizer, text, mark), np.int64)

    def end_of(part: Messages) -> int:
        """Index of the first token behind ``part`` of the messages; 0 if the template refuses that part alone."""
        try:
            return common_prefix(ids, tokens(part, False)) if part else 0
        except PromptError:
            return 0

    ids = tokens(messages, True)
    *earlier, last = messages[:-1] if continues(messages) and len(messages) > 1 else messages
    question = end_of(earlier)
    if not (earlier and len(ids) - question <= MAX_QUESTION_TOKENS):
        content: Any = last.get("content")
        start = question_start(content) if isinstance(content, str) else None
        if start is not None:
            question = end_of([*earlier, {**last, "content": content[:start]}])
    answered = range(0)
    spoken = [number for number, message in enumerate(earlier) if message.get("role") == "assistant"]
    if spoken and control.cue_tokens >= CUE_TOKENS:
        answered = _last_answer(ids, question)
    if spoken and not answered:  # a short cue, or one unlike that of earlier answers
        start = end_of(messages[: spoken[-1]])
        answered = begin_of_answer(start, len(ids)) if start or not spoken[-1] else answered
    return EncodedPrompt(ids, question, answered, control=None if trusted else control)


def _check_text(text: str, what: str, tokenizer: PreTrainedTokenizerBase, context: int) -> None:
    """Raises :class:`PromptError` for text that cannot be encoded (a lone surrogate), or is by far too long.

    No token spells more characters than the longest one. To tokenize megabytes takes a minute, in which no other thread
    may run.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PromptError(f"{what} is not valid Unicode ({error.reason} at {error.start}): repair it.") from error
    if len(text) > context * _longest_token(tokenizer):
        raise PromptTooLongError(
            f"the prompt has {len(text)} characters, which more than the model's context of {context} tokens would "
            "spell: shorten it."
        )


def _longest_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The characters of the longest token."""
    size = len(tokenizer)
    if tokenizer not in _longest or _longest[tokenizer][0] != size:  # tokens may be added later
        _longest[tokenizer] = size, max(map(len, tokenizer.get_vocab()), default=1)
    return _longest[tokenizer][1]
