"""The text of an answer: what it adds to the prompt's.

Decoded alone, an answer loses a space at its beginning with tokenizers that put one before every text (SentencePiece),
and the half of a character that the prompt began. So it is decoded behind the end of the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

from semshare_core.own_tokenizer import own_tokenizer

_BEFORE = 16  # tokens of the prompt; more where these are special ones, which text leaves out


class TextBehind:
    """What generated ids add to the text of ``prompt``."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, prompt: Sequence[int]) -> None:
        self._own = own_tokenizer(tokenizer)  # asked for once: text is told at every token
        size = min(_BEFORE, len(prompt))
        self._tail = [int(token) for token in prompt[len(prompt) - size :]]
        self._known = self._decode([])
        while not self._known and size < len(prompt):
            size = min(4 * size, len(prompt))
            self._tail = [int(token) for token in prompt[len(prompt) - size :]]
            self._known = self._decode([])

    def __call__(self, generated: Sequence[int], *, special: bool = False) -> str:
        """The text of ``generated``, behind the prompt; ``special``: with special tokens."""
        known = self._decode([], special=True) if special else self._known
        whole = self._decode(generated, special=special)
        if not whole.startswith(known):  # the answer finishes a character of the prompt
            known = known.rstrip("\ufffd")
        return whole[len(known) :]

    def _decode(self, generated: Sequence[int], *, special: bool = False) -> str:
        ids = [*self._tail, *map(int, generated)]
        return str(self._own.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))
