"""Tokens that were added to a vocabulary: marks such as ``<tool_call>``, which the tokenizer spells as one token.

Some are *special*: no ordinary text holds them, and decoding to text leaves them out. The others are text to whoever
reads it. A model that was trained with either says the token, never its letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of all tokens that were added to the vocabulary."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of the added tokens that decoding to text leaves out."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def vocabulary_state(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Differs when tokens were added to ``tokenizer`` or became special since."""
    return (len(tokenizer), *tokenizer.all_special_ids)


def parts(text: str, tokens: Mapping[str, int]) -> list[str | int]:
    """``text`` as strings and ids of ``tokens``, as a tokenizer splits it: the longest token first.

    White space stays text even where it is an added token, for it joins with what stands around it.
    """
    names = sorted((token for token in tokens if token.strip() and token in text), key=len, reverse=True)
    if not names:
        return [text] if text else []
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    known = {name: tokens[name] for name in names}
    return [known[piece] if piece in known else piece for piece in pieces if piece]  # noqa: SIM401 - two types


def without(text: str, tokens: Mapping[str, int]) -> str:
    """``text`` without ``tokens``."""
    return "".join(part for part in parts(text, tokens) if isinstance(part, str))
