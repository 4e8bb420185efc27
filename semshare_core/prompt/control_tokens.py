"""Text is text: what a message says never becomes a token that opens a turn, calls a tool or ends an answer.

A chat template writes its control tokens and the messages into one string, in which ``<|im_start|>`` is the same
whether the template wrote it or a user did. So before the template is applied, a mark that no tokenizer sees is put
behind the first character of each control token that a message spells, or may spell together with what the template
puts beside it. The marks are taken out again before the string is spelled, and a control token that a mark stood in was
not the template's: there the text is spelled as though the tokenizer had no such token. A prompt without one is spelled
as ever.

The assistant's own words keep the tags that come in pairs (``<think>`` and ``</think>``, ``<tool_call>`` and the like):
there they are the tokens that the model wrote. Other special tokens are left out of the text of an answer, so what
spells one in it was text.
"""

from __future__ import annotations

import json
import re
import secrets
import threading
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core.errors import PromptError
from semshare_core.process.forking import free
from semshare_core.prompt.chat_template import rendered, template_of
from semshare_core.prompt.own_tokenizer import backend_copy, encode_text, own_tokenizer

Messages = Sequence[Mapping[str, Any]]


class ControlTokens:
    """The control tokens of a tokenizer under one chat template.

    These are its special tokens, and the other added tokens that the template writes, with their counterparts
    (``</think>`` and ``<think>``). Added tokens that a template does not know, such as ``<table>``, are ordinary text.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, template: str) -> None:
        added = {token.content: (index, token) for index, token in tokenizer.added_tokens_decoder.items()}
        special = {text for text, (_, token) in added.items() if token.special}
        around_turns = _skeleton(tokenizer)
        told = {text for text in added if not _is_word(text) and (text in template or text in around_turns)}
        told.update(getattr(tokenizer, "chat_control_tokens", None) or ())
        told |= {pair for text in told if (pair := _counterpart(text)) is not None}
        self._texts = frozenset(text for text in special | told if text in added and text.strip())
        self._ids = frozenset(added[text][0] for text in self._texts)
        turns = {text for text in self._texts if text in around_turns or text in special}
        tags = {text for text in self._texts if _counterpart(text) in added}
        tags -= {text for text in special if text in around_turns}  # [INST] and [/INST]
        normalized = any(added[text][1].normalized for text in self._texts)
        normalize = _normalizer(tokenizer) if normalized else None
        self._anywhere = _Spellings(self._texts, normalize)
        self._of_the_assistant = _Spellings(turns - tags, normalize)
        self._plain: _PlainBackend | None = None
        self._making = free(threading.Lock())

    def marked(self, messages: Messages, tools: Messages) -> tuple[Messages, Messages, str]:
        """``messages`` and ``tools`` with marks in them, and the mark; it is empty if there is nothing to mark."""
        mark = _mark_absent_from([messages, tools])
        told = [self._marked_message(message, mark) for message in messages]
        told_tools = [_each_text(tool, lambda text: self._anywhere.marked(text, mark)) for tool in tools]
        if any(mark in text for text in texts_of([told, told_tools])):
            return told, told_tools, mark
        return messages, tools, ""

    def _marked_message(self, message: Mapping[str, Any], mark: str) -> dict[str, Any]:
        own = self._of_the_assistant if message.get("role") == "assistant" else self._anywhere

        def marked(name: str, value: Any) -> Any:
            if name == "role" and value.isidentifier():  # "user", which templates compare
                return value
            spellings = self._anywhere if name in ("tool_calls", "role") else own
            return _each_text(value, lambda text: spellings.marked(text, mark))

        return {name: marked(name, value) for name, value in message.items()}

    def spell(self, tokenizer: PreTrainedTokenizerBase, text: str, mark: str) -> list[int]:
        """The ids of a rendered chat, control tokens with a ``mark`` in them as text."""
        if not mark:
            return encode_text(tokenizer, text)
        parts = re.split(f"{re.escape(mark)}|{re.escape(json.dumps(mark)[1:-1])}", text)
        marks = list(accumulate(map(len, parts[:-1])))
        spell = self._spell_fast if isinstance(tokenizer, PreTrainedTokenizerFast) else self._spell_slow
        return spell(own_tokenizer(tokenizer), "".join(parts), marks)

    def same(self, ids: Sequence[int], others: Sequence[int]) -> bool:
        """Whether two spellings of one text take the same of it for control tokens."""
        return [token for token in ids if token in self._ids] == [token for token in others if token in self._ids]

    def _spell_fast(self, own: Any, text: str, marks: list[int]) -> list[int]:
        spelled = own(text, add_special_tokens=False, verbose=False, return_offsets_mapping=True)
        ids, spans = list(spelled["input_ids"]), spelled["offset_mapping"]
        control = [at for at, token in enumerate(ids) if token in self._ids]
        forged = {at for at in control if _within(spans[at], marks)}
        if not forged:
            return ids
        borders = [at for at in control if at not in forged]
        found: list[int] = []
        for before, behind in zip([-1, *borders], [*borders, len(ids)], strict=True):
            if forged.intersection(range(before + 1, behind)):
                start = spans[before][1] if before >= 0 else 0
                end = spans[behind][0] if behind < len(ids) else len(text)
                inside = [at - start for at in marks if start < at < end]
                found += self._as_text(own, text[start:end], inside, begins=before < 0, ends=behind == len(ids))
            else:
                found += ids[before + 1 : behind]
            found += ids[behind : behind + 1]
        return found

    def _as_text(self, own: Any, text: str, marks: list[int], *, begins: bool, ends: bool) -> list[int]:
        """``text`` without control tokens, between two of them unless it ``begins`` or ``ends`` the prompt.

        A model's own vocabulary may hold a control token's spelling; it is broken then where the marks are.
        """
        plain = self._plain_backend(own, text)
        cuts = [0, *marks, len(text)]
        broken = plain.border.join(text[a:b] for a, b in pairwise(cuts))
        for attempt in (text, broken):
            ids = plain.spell(("" if begins else plain.border) + attempt + ("" if ends else plain.border))
            if not self._ids.intersection(ids):
                return ids
        raise PromptError("a message spells a control token that the tokenizer cannot write as text: leave it out.")

    def _plain_backend(self, own: Any, text: str) -> _PlainBackend:
        """The backend without control tokens, with a border that is not in ``text``."""
        with self._making:
            if self._plain is None or self._plain.border in text:
                self._plain = _PlainBackend(own.backend_tokenizer, self._texts, _mark_absent_from(text))
            return self._plain

    def _spell_slow(self, own: Any, text: str, marks: list[int]) -> list[int]:
        """The same with a tokenizer in Python, which splits at added tokens before it spells."""
        ids: list[int] = []
        pending, forged, at = "", False, 0
        for piece in [*own.tokens_trie.split(text), ""]:
            span = (at, at := at + len(piece))
            control = piece in self._texts
            if piece and not (control and not _within(span, marks)):
                pending, forged = pending + piece, forged or control
                continue
            if pending:
                ids += own.convert_tokens_to_ids(own.tokenize(pending, split_special_tokens=forged))
                pending, forged = "", False
            if control:
                ids.append(own.convert_tokens_to_ids(piece))
        return ids


def control_tokens(tokenizer: PreTrainedTokenizerBase, tools: Messages) -> ControlTokens:
    """Those of ``tokenizer`` under its present template for ``tools``, learned once."""
    template, own = template_of(tokenizer, tools), own_tokenizer(tokenizer)
    state = id(own), len(own), tuple(own.all_special_tokens)
    with _learning:
        known = _known.get(tokenizer)
        if known is None or known[0] != state:
            known = _known[tokenizer] = (state, {})
        if template not in known[1]:
            known[1][template] = ControlTokens(tokenizer, template)
        return known[1][template]


_known: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[Hashable, dict[str, ControlTokens]]] = WeakKeyDictionary()
_learning = free(threading.Lock())


class _PlainBackend:
    """A backend without control tokens, but with a made-up one, ``border``: text behind it is spelled as behind one."""

    def __init__(self, core: Tokenizer, control: Collection[str], border: str) -> None:
        self.border = border
        self._backend = backend_copy(core, control)
        self._backend.add_special_tokens([AddedToken(border, normalized=False)])
        ids = {token.content: index for index, token in core.get_added_tokens_decoder().items()}
        added = self._backend.get_added_tokens_decoder().items()
        self._ids = {index: ids.get(token.content) for index, token in added}  # numbered anew where some are left out

    def spell(self, text: str) -> list[int]:
        """The ids of ``text`` as ``core`` has them; none for a border."""
        ids = (self._ids.get(index, index) for index in self._backend.encode(text, add_special_tokens=False).ids)
        return [index for index in ids if index is not None]


class _Spellings:
    """Where texts spell some of ``tokens``, wholly or with what may stand before or behind them."""

    def __init__(self, tokens: Collection[str], normalize: Callable[[str], str] | None) -> None:
        rests: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for token in tokens:
            rests[token[0]][token[1:2]].append(re.escape(token[2:]))
        starts = []  # by two characters, for a regular expression tries thousands of tokens one after the other
        for first, behind in rests.items():
            tried = "|".join(f"{re.escape(second)}(?:{'|'.join(ends)})" for second, ends in behind.items())
            starts.append(f"{re.escape(first)}(?={tried})")
        self._start = re.compile("|".join(starts) or "(?!)")
        self._heads = {token[:size] for token in tokens for size in range(1, len(token))}
        self._tails = {token[size:] for token in tokens for size in range(1, len(token))}
        self._longest = max(map(len, tokens), default=0)
        self._normalize = normalize

    def marked(self, text: str, mark: str) -> str:
        """``text`` with a mark behind the first character of each."""
        places = {found.end() for found in self._start.finditer(text)}
        bare = text.rstrip()
        sizes = range(1, min(self._longest, len(bare)) + 1)
        places |= {len(bare) - size + 1 for size in sizes if bare[-size:] in self._heads}
        bare = text.lstrip()
        if any(bare[:size] in self._tails for size in sizes):
            places.add(len(text) - len(bare) + 1)
        if self._normalize is not None:
            normal = self._normalize(text)
            if len(self._start.findall(normal)) > len(self._start.findall(text)):  # spelled in other characters
                places |= set(range(1, len(text) + 1))
        cuts = [0, *sorted(places), len(text)]
        return mark.join(text[a:b] for a, b in pairwise(cuts)) if places else text


def _is_word(token: str) -> bool:
    """Too ordinary for a control token: what stands in a template by chance."""
    return len(token) < 3 or token.isalnum() or token.isspace()


def _skeleton(tokenizer: PreTrainedTokenizerBase) -> str:
    """What the template writes around turns that say next to nothing."""
    user, system, assistant = ({"role": role, "content": "x"} for role in ("user", "system", "assistant"))
    told = []
    for messages in ([system, user], [user, assistant, user]):
        try:
            told.append(rendered(tokenizer, messages, (), answer=False))
        except PromptError:
            continue
    return "\0".join(told)


def _counterpart(token: str) -> str | None:
    """The closing tag of an opening one, and the other way round."""
    for opening, closing in (("<", "</"), ("[", "[/")):
        if token.startswith(closing):
            return opening + token.removeprefix(closing)
        if token.startswith(opening):
            return closing + token.removeprefix(opening)
    return None


def _normalizer(tokenizer: PreTrainedTokenizerBase) -> Callable[[str], str] | None:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    return None if backend is None or backend.normalizer is None else backend.normalizer.normalize_str


def _within(span: tuple[int, int], marks: list[int]) -> bool:
    """Whether one of the sorted ``marks`` stands behind a character of ``span``."""
    at = bisect_right(marks, span[0])
    return at < len(marks) and marks[at] <= span[1]


def texts_of(value: Any) -> Iterator[str]:
    """Each text in ``value``, names of mappings too."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, held in value.items():
            yield from texts_of(name)
            yield from texts_of(held)
    elif isinstance(value, list | tuple):
        for held in value:
            yield from texts_of(held)


def _each_text(value: Any, change: Callable[[str], str], name: Any = None) -> Any:
    """``value`` with each text in it changed, names of mappings too."""
    if isinstance(value, str):
        return value if name == "type" else change(value)  # "text" and "function", which templates compare
    if isinstance(value, Mapping):
        return {_each_text(key, change): _each_text(held, change, key) for key, held in value.items()}
    if isinstance(value, list | tuple):
        return [_each_text(held, change) for held in value]
    return value


def _mark_absent_from(value: Any) -> str:
    """A character of a private plane that is nowhere in ``value``, drawn by lot so that nobody can write it."""
    told = "".join(texts_of(value))
    while (mark := chr(0xF0000 + secrets.randbelow(0xFFFE))) in told:
        pass
    return mark
