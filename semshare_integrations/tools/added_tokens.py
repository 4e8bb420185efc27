"""Tokens that were added to a vocabulary, for example ``<tool_call>``: a mark that is one token.

Some are *special*: ordinary text never contains them, and decoding leaves them out. The others appear in text. A model
that was trained with such a token writes the token, and never its letters.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from transformers import PreTrainedTokenizerBase


def added_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of all added tokens."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items()}


def special_tokens(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The ids of the special tokens."""
    return {str(token): index for index, token in tokenizer.added_tokens_decoder.items() if token.special}


def vocabulary_state(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """A value that changes when tokens are added to ``tokenizer`` or become special."""
    return (len(tokenizer), *tokenizer.all_special_ids)


def parts(text: str, tokens: Mapping[str, int]) -> list[str | int]:
    """Split ``text`` into strings and ids of ``tokens``, as a tokenizer does: the longest token first.

    White space stays text even if it is an added token, because it joins its neighbours.
    """
    names = sorted((token for token in tokens if token.strip() and token in text), key=len, reverse=True)
    if not names:
        return [text] if text else []
    pieces = re.split("(" + "|".join(map(re.escape, names)) + ")", text)
    return [tokens[piece] if piece in names else piece for piece in pieces if piece]


def without(text: str, tokens: Mapping[str, int]) -> str:
    """``text`` without ``tokens``."""
    return "".join(part for part in parts(text, tokens) if isinstance(part, str))
