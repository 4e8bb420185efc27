"""A pool of any size out of real text, and prompts that find something in it, or nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int64]

_SYSTEM_TOKENS, _SYSTEMS = 64, 20


@dataclass(frozen=True)
class ManyPrompts:
    """Prompts mixed from ``texts``: each begins with one of 20 system prompts and goes on with 2 to 5 passages of
    anywhere, so that prompts share runs, prefixes and subjects, and no two are alike.

    Attributes:
        texts: int64 [n] each, token ids of real texts.
        strange: the same, of texts unlike those.
        tokens: length of every prompt.
    """

    texts: Sequence[Tokens]
    strange: Sequence[Tokens]
    tokens: int = 500

    def pooled(self, number: int) -> Tokens:
        """Prompt ``number``, int64 [tokens]; the same for the same number, always."""
        rng = np.random.default_rng(number)
        count = int(rng.integers(2, 6))
        size = -(-(self.tokens - _SYSTEM_TOKENS) // count)
        system = self.texts[number % _SYSTEMS][:_SYSTEM_TOKENS]
        return np.concatenate((system, *_passages(self.texts, size, count, rng)))[: self.tokens]

    def asked(self, count: int, known: int) -> Iterator[tuple[str, Tokens]]:
        """``count`` prompts that were not pooled, of three kinds in turn, made of the first ``known`` pooled ones.

        ``prefix``: 100 to 400 tokens of a pooled prompt, then other text. ``reordered``: chunks of six pooled prompts,
        a seventh of a prompt each. ``unrelated``: passages of the strange texts.
        """
        for number in range(count):
            rng = np.random.default_rng((number, 1))
            kind = ("prefix", "reordered", "unrelated")[number % 3]
            if kind == "prefix":
                shared = self.pooled(int(rng.integers(known)))[: int(rng.integers(100, 400))]
                rest = _passages(self.strange, self.tokens - len(shared), 1, rng)
                yield kind, np.concatenate((shared, *rest))
            elif kind == "reordered":
                size = self.tokens // 7
                starts = rng.integers(_SYSTEM_TOKENS, self.tokens - size, 6)
                chunks = [self.pooled(int(rng.integers(known)))[start : start + size] for start in starts]
                yield kind, np.concatenate((*chunks, *_passages(self.strange, self.tokens - 6 * size, 1, rng)))
            else:
                yield kind, np.concatenate(_passages(self.strange, self.tokens // 4, 4, rng))


def _passages(texts: Sequence[Tokens], size: int, count: int, rng: np.random.Generator) -> list[Tokens]:
    long = [text for text in texts if len(text) >= size]
    chosen = [long[int(index)] for index in rng.integers(len(long), size=count)]
    starts = [int(rng.integers(len(text) - size + 1)) for text in chosen]
    return [text[start : start + size] for text, start in zip(chosen, starts, strict=True)]
