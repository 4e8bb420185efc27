"""The text of an answer: what its tokens say, up to the first stop string.

A stop string may be or contain a special token. An answer's text leaves special tokens out, so such a stop string is
looked for in the text with all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from transformers import PreTrainedTokenizerBase

from semshare_core.decode.text_behind import TextBehind


class AnswerText:
    """Reads the tokens of an answer to ``prompt`` that ends before the first of the strings in ``stop``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], prompt: Sequence[int]) -> None:
        self._text = TextBehind(tokenizer, prompt)
        special = _special_texts(tokenizer) if stop else set()
        self._with_special = [text for text in stop if any(token in text for token in special)]
        self._plain = [text for text in stop if text not in self._with_special]

    @property
    def may_stop(self) -> bool:
        """Whether there is any stop string."""
        return bool(self._plain or self._with_special)

    def of(self, ids: Sequence[int]) -> str:
        """The text of ``ids``, up to the first stop string."""
        return self._cut(ids, stop_at)

    def settled(self, ids: Sequence[int]) -> str:
        """As much of :meth:`of` as will not change whatever comes behind ``ids``."""
        return self._cut(ids, settled_length)

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop string is there."""
        if self._plain and any(end in self._text(ids) for end in self._plain):
            return True
        return bool(self._with_special) and any(end in self._text(ids, special=True) for end in self._with_special)

    def _cut(self, ids: Sequence[int], length_of: Callable[[str, Sequence[str]], int]) -> str:
        if self._with_special:
            whole = self._text(ids, special=True)
            text = self._until(ids, whole[: length_of(whole, self._with_special)])
        else:
            text = self._text(ids)
        return text[: length_of(text, self._plain)]

    def _until(self, ids: Sequence[int], wanted: str) -> str:
        """The text of those ``ids`` that make ``wanted``, a beginning of the text with special tokens."""
        tokens = len(ids)
        while not wanted.startswith(before := self._text(ids[:tokens], special=True)):
            tokens -= 1
        return self._text(ids[:tokens]) + wanted[len(before) :]  # a token may reach into a stop string


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def stop_at(text: str, stop: Sequence[str]) -> int:
    """Where the first stop string begins in ``text``, or its length."""
    return min((at for at in map(text.find, stop) if at >= 0), default=len(text))


def settled_length(text: str, stop: Sequence[str]) -> int:
    """How much of a growing text will not change: not half a character, not the beginning of a stop string."""
    known = text.rstrip("\ufffd")
    begun = [
        len(known) - size
        for string in stop
        for size in range(1, min(len(string), len(known) + 1))
        if known.endswith(string[:size])
    ]
    return min(stop_at(text, stop), len(known), *begun)
