"""Text is text: what a message says never becomes a token that opens a turn, calls a tool or ends an answer.

A chat template writes its control tokens and the messages into one string, in which ``<|im_start|>`` is the same
whether the template wrote it or a user did. So every place where a message spells a control token, or part of one, gets
a mark before the template is applied: a character that stands nowhere else, behind the first character of the token.
The marks are taken out again before the string is tokenised. A control token that a mark stood in is *forged*: it was
written by a message, and its text is tokenised as if the tokenizer had no control tokens. A prompt without forged
tokens is tokenised as usual.

The assistant's own words keep tags that come in pairs (``<think>`` and ``</think>``, ``<tool_call>`` and the like):
there they are the tokens that the model generated. Other special tokens are left out of the text of an answer, so
whatever spells one in it was text.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from bisect import bisect_right
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core.errors import PromptError
from semshare_core.process.forking import free
from semshare_core.prompt.chat_template import Messages, render, template_of
from semshare_core.prompt.own_tokenizer import backend_copy, encode_text, own_tokenizer
from semshare_core.prompt.spellings import Spellings
from semshare_core.tokens import common_prefix


class ControlTokens:
    """The control tokens of a tokenizer under one chat template.

    These are its special tokens, and the other added tokens that the template writes, with their counterparts
    (``</think>`` and ``<think>``). Added tokens that the template does not know, such as ``<table>``, are text.

    Attributes:
        cue_tokens: how many tokens the template writes before an answer, whatever the messages are.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        special = {text for text, (_, token) in added.items() if token.special}
        around_turns = _skeleton(tokenizer)
        written = {text for text in added if not _is_word(text) and (text in template or text in around_turns)}
        written.update(getattr(tokenizer, "chat_control_tokens", None) or ())
        written |= {pair for text in written if (pair := _counterpart(text)) is not None}
        self._texts = frozenset(text for text in special | written if text in added and text.strip())
        self._ids = frozenset(added[text][0] for text in self._texts)
        turns = {text for text in self._texts if text in around_turns or text in special}
        tags = {text for text in self._texts if _counterpart(text) in added}
        tags -= {text for text in special if text in around_turns}  # [INST] and [/INST]
        normalize = None
        if any(added[text][1].normalized for text in self._texts):
            backend = getattr(tokenizer, "backend_tokenizer", None)
            normalize = backend.normalizer.normalize_str if backend is not None and backend.normalizer else None
        self._anywhere = Spellings(self._texts, normalize)
        self._of_the_assistant = Spellings(turns - tags, normalize)
        self.cue_tokens = _cue_tokens(tokenizer)

    def marked(self, messages: Messages, tools: Messages) -> tuple[Messages, Messages, str]:
        """``messages`` and ``tools`` with marks in them, and the mark; it is empty if there is nothing to mark."""
        mark = _absent_character([messages, tools])
        new_messages = [self._marked_message(message, mark) for message in messages]
        new_tools = [_map_texts(tool, lambda text: self._anywhere.marked(text, mark)) for tool in tools]
        if any(mark in text for text in texts_of([new_messages, new_tools])):
            return new_messages, new_tools, mark
        return messages, tools, ""

    def _marked_message(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        own = self._of_the_assistant if message.get("role") == "assistant" else self._anywhere

        def marked(name: str, value: Any) -> Any:
            if name == "role" and value.isidentifier():  # "user", which templates compare
                return value
            spellings = self._anywhere if name in ("tool_calls", "role") else own
            return _map_texts(value, lambda text: spellings.marked(text, mark))

        return {name: marked(name, value) for name, value in message.items()}

    def tokenize(self, tokenizer: PreTrainedTokenizerBase, text: str, mark: str) -> list[int]:
        """The ids of a rendered chat; a control token with a ``mark`` in it becomes text."""
        if not mark:
            return encode_text(tokenizer, text)
        parts = re.split(f"{re.escape(mark)}|{re.escape(json.dumps(mark)[1:-1])}", text)
        marks = list(accumulate(map(len, parts[:-1])))
        own: Any = own_tokenizer(tokenizer)
        tokenize = self._tokenize_fast if isinstance(own, PreTrainedTokenizerFast) else self._tokenize_slow
        return tokenize(own, "".join(parts), marks)

    def same(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """Whether two ways to tokenise one text have the same control tokens in the same order."""
        return [token for token in ids if token in self._ids] == [token for token in others if token in self._ids]

    def _tokenize_fast(self, own: Any, text: str, marks: list[int]) -> list[int]:
        encoding = own(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        ids, spans = list(encoding["input_ids"]), encoding["offset_mapping"]
        control = [at for at, token in enumerate(ids) if token in self._ids]
        forged = {at for at in control if _contains(spans[at], marks)}
        if not forged:
            return ids
        plain = _PlainBackend(own.backend_tokenizer, self._texts, _absent_character(text))
        borders = [at for at in control if at not in forged]  # the template's own control tokens
        result: list[int] = []
        for before, behind in zip([-1, *borders], [*borders, len(ids)], strict=True):
            if forged.intersection(range(before + 1, behind)):
                start = spans[before][1] if before >= 0 else 0
                end = spans[behind][0] if behind < len(ids) else len(text)
                cuts = [0, *(at - start for at in marks if start < at < end), end - start]
                head, tail = "" if before < 0 else plain.border, "" if behind == len(ids) else plain.border
                result += self._as_text(plain, text[start:end], cuts, head, tail)
            else:
                result += ids[before + 1 : behind]
            result += ids[behind : behind + 1]
        return result

    def _as_text(self, plain: _PlainBackend, text: str, cuts: list[int], head: str, tail: str) -> list[int]:
        """``text`` without control tokens, between a ``head`` and a ``tail``.

        A model's own vocabulary may hold the spelling of a control token. Then the text is split at the ``cuts``.
        """
        split = plain.border.join(text[a:b] for a, b in pairwise(cuts))
        for attempt in (text, split):
            ids = plain.tokenize(head + attempt + tail)
            if not self._ids.intersection(ids):
                return ids
        raise PromptError("a message spells a control token that the tokenizer cannot write as text: leave it out.")

    def _tokenize_slow(self, own: Any, text: str, marks: list[int]) -> list[int]:
        """The same with a tokenizer in Python, which splits at added tokens before it tokenises."""
        ids: list[int] = []
        pending, forged, at = "", False, 0
        for part in [*own.tokens_trie.split(text), ""]:
            span = (at, at := at + len(part))
            control = part in self._texts
            if part and not (control and not _contains(span, marks)):
                pending, forged = pending + part, forged or control
                continue
            if pending:
                ids += own.convert_tokens_to_ids(own.tokenize(pending, split_special_tokens=forged))
                pending, forged = "", False
            if control:
                ids.append(own.convert_tokens_to_ids(part))
        return ids


_known: WeakKeyDictionary[PreTrainedTokenizerBase, dict[Hashable, ControlTokens]] = WeakKeyDictionary()
_learning = free(threading.Lock())


def control_tokens(tokenizer: PreTrainedTokenizerBase, tools: Messages) -> ControlTokens:
    """The control tokens of ``tokenizer`` under its present template for ``tools``, learned once."""
    template, own = template_of(tokenizer, tools), own_tokenizer(tokenizer)
    state = template, len(own), tuple(own.all_special_tokens)
    with _learning:
        known = _known.setdefault(own, {})
        if state not in known:
            known[state] = ControlTokens(tokenizer, template)
        return known[state]


class _PlainBackend:
    """A backend without control tokens, but with a made-up one, ``border``: text behind it is as behind a token."""

    def __init__(self, backend: Tokenizer, control: Collection[str], border: str) -> None:
        self.border = border
        self._backend = backend_copy(backend, control)
        self._backend.add_special_tokens([AddedToken(border, normalized=False)])
        ids = {token.content: index for index, token in backend.get_added_tokens_decoder().items()}
        added = self._backend.get_added_tokens_decoder().items()
        self._ids = {index: ids.get(token.content) for index, token in added}  # numbered anew where some are left out

    def tokenize(self, text: str) -> list[int]:
        """The ids of ``text`` in the original backend's numbers; none for a border."""
        ids = (self._ids.get(index, index) for index in self._backend.encode(text, add_special_tokens=False).ids)
        return [index for index in ids if index is not None]


def _is_word(token: str) -> bool:
    """Whether a token is too ordinary for a control token: a template contains it by chance."""
    return len(token) < 3 or token.isalnum() or token.isspace()


def _skeleton(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes around turns of one letter."""
    user, system, assistant = ({"role": role, "content": "x"} for role in ("user", "system", "assistant"))
    texts = []
    for messages in ([system, user], [user, assistant, user]):
        with suppress(PromptError):
            texts.append(render(tokenizer, messages, (), answer=False))
    return "\0".join(texts)


def _cue_tokens(tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens the template writes before an answer; 0 if it refuses a message of the user alone."""
    hello = [{"role": "user", "content": "Hello."}]
    try:
        asked, cued = (encode_text(tokenizer, render(tokenizer, hello, (), answer=answer)) for answer in (False, True))
    except PromptError:
        return 0
    return len(cued) - common_prefix(np.asarray(asked), np.asarray(cued))


def _counterpart(token: str) -> str | None:
    """The closing tag of an opening one, and the other way round: ``</think>`` for ``<think>``."""
    for opening, closing in (("<", "</"), ("[", "[/")):
        if token.startswith(closing):
            return opening + token.removeprefix(closing)
        if token.startswith(opening):
            return closing + token.removeprefix(opening)
    return None


def _contains(span: tuple[int, int], marks: list[int]) -> bool:
    """Whether one of the sorted ``marks`` stands behind a character of ``span``."""
    at = bisect_right(marks, span[0])
    return at < len(marks) and marks[at] <= span[1]


def texts_of(value: Any) -> Iterator[str]:
    """Each text in ``value``, names of mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.items():
            yield from texts_of(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts_of(item)


def _map_texts(value: Any, change: Callable[[str], str], name: Any = None) -> Any:
    """``value`` with each text in it changed, names of mappings too."""
    if isinstance(value, str):
        return value if name == "type" else change(value)  # "text" and "function", which templates compare
    if isinstance(value, Mapping):
        return {_map_texts(key, change): _map_texts(item, change, key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(item, change) for item in value]
    return value


def _absent_character(value: Any) -> str:
    """A private-use character that is nowhere in ``value``. It is random, so nobody can write it beforehand."""
    text = "".join(texts_of(value))
    while (mark := chr(0xF0000 + secrets.randbelow(0xFFFE))) in text:
        pass
    return mark
