"""The text of an answer is what it adds to the prompt's.

Decoded alone, an answer loses a space at its beginning with tokenizers that put one before every text (SentencePiece),
and half of a character whose other half ends the prompt. So it is decoded behind the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from semshare_core.prompt.own_tokenizer import own_tokenizer

_BEFORE = 16  # tokens that others are decoded behind; more where these are special ones, which text leaves out
_SETTLED = 32  # so many new tokens are decoded again with each one that comes, before their text is kept


@dataclass(frozen=True)
class _Known:
    """The first generated ids with their text, and the last of them, behind which the next are decoded."""

    ids: list[int]
    text: str
    last: list[int]
    last_text: str


class TextBehind:
    """The text that generated ids add to ``prompt``. When it is asked for growing ids, it decodes only the new ones.

    Several threads may ask.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._own = own_tokenizer(tokenizer)  # looked up once, because the text is asked for at every token
        size = _BEFORE
        while True:
            tail = [int(token) for token in prompt[max(0, len(prompt) - size) :]]
            text = self._decode(tail, special=False)
            if text or size >= len(prompt):
                break
            size *= 4
        texts = {False: text, True: self._decode(tail, special=True)}
        self._first = {special: _Known([], "", tail, texts[special]) for special in texts}
        self._known = dict(self._first)

    def __call__(self, generated: Sequence[int], *, special: bool = False) -> str:
        """The text of ``generated``, behind the prompt; ``special``: with special tokens."""
        ids = [int(token) for token in generated]
        known = self._known[special]
        whole = self._decode([*known.last, *ids[len(known.ids) :]], special=special)
        if ids[: len(known.ids)] != known.ids or not whole.startswith(known.last_text):
            known = self._first[special]
            whole = self._decode([*known.last, *ids], special=special)
        before = known.last_text
        if not whole.startswith(before):  # the answer finishes a character of the prompt
            before = before.rstrip("\ufffd")
        text = known.text + whole[len(before) :]
        if len(ids) - len(known.ids) >= _SETTLED and not text.endswith("\ufffd"):
            last_text = self._decode(ids[-_BEFORE:], special=special)
            if last_text:
                self._known[special] = _Known(ids, text, ids[-_BEFORE:], last_text)
        return text

    def _decode(self, ids: list[int], *, special: bool) -> str:
        return str(self._own.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))
