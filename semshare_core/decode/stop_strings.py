"""The text of an answer: what its tokens say, up to the first stop string. A stop string may be a special token.

Special tokens are left out of an answer's text, so that such a stop string is looked for in the text with all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

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
        """The text of ``ids``, up to the first stop string, which is left out."""
        text = self._until(ids, len(cut_at_stop(self._whole(ids), self._with_special))) if self._with_special else None
        return cut_at_stop(self._visible(ids) if text is None else text, self._plain)

    def settled(self, ids: Sequence[int]) -> str:
        """As much of :meth:`of` as will not change whatever comes behind ``ids``."""
        if not self._with_special:
            text = self._visible(ids)
        else:
            text = self._until(ids, settled_length(self._whole(ids), self._with_special))
        return text[: settled_length(text, self._plain)]

    def stopped(self, ids: Sequence[int]) -> bool:
        """Whether a stop string is there."""
        if self._plain and any(end in self._visible(ids) for end in self._plain):
            return True
        return bool(self._with_special) and any(end in self._whole(ids) for end in self._with_special)

    def _until(self, ids: Sequence[int], length: int) -> str:
        """The text of what makes the first ``length`` characters of the text with special tokens."""
        wanted, tokens = self._whole(ids)[:length], len(ids)
        while not wanted.startswith(before := self._whole(ids[:tokens])):
            tokens -= 1
        return self._visible(ids[:tokens]) + wanted[len(before) :]  # a token may reach into a stop string

    def _visible(self, ids: Sequence[int]) -> str:
        return self._text(ids)

    def _whole(self, ids: Sequence[int]) -> str:
        return self._text(ids, special=True)


def _special_texts(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    return {token.content for token in added if token.special} | set(tokenizer.all_special_tokens)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """``text`` up to the first stop string, which is left out."""
    return text[: min((at for at in map(text.find, stop) if at >= 0), default=len(text))]


def settled_length(text: str, stop: Sequence[str]) -> int:
    """How much of a growing text will not change: not a half character, not the beginning of a stop string."""
    known = text.rstrip("\ufffd")
    begun = [
        len(known) - size
        for end_string in stop
        for size in range(1, min(len(end_string), len(known) + 1))
        if known.endswith(end_string[:size])
    ]
    return min(len(cut_at_stop(text, stop)), len(known), *begun)
