"""The tokens of an answer when its text comes back in the next prompt.

A conversation's next prompt brings the answer as text, which is tokenised again. A sampled answer, or one under a
grammar, may have been generated in other tokens than these. Rows are kept for those of the next prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from semshare_core.prompt.control_tokens import ControlTokens
from semshare_core.prompt.own_tokenizer import decode_ids, encode_text
from semshare_core.tokens import Tokens

# numbers of the prompt's last tokens that are tokenised again with the answer, because they may join with it
_BEFORE = (*range(16, 0, -1), *range(17, 65))


def retokenized(
    prompt: Tokens, generated: Sequence[int], tokenizer: PreTrainedTokenizerBase, control: ControlTokens | None = None
) -> Tokens:
    """Prompt and answer as int64 ids, the answer in the tokens that the tokenizer makes of its text.

    The answer stays as it is where its text does not determine the tokens: it ends with half a character, the tokenizer
    makes other tokens of the prompt's end, or the text spells a ``control`` token, which is text in a message.
    """
    tokens = np.concatenate((prompt, np.asarray(generated, np.int64)))
    for before in _BEFORE:  # some tokens are others at the beginning of a text
        if before > len(prompt):
            continue
        tail = tokens[len(prompt) - before :]
        if not np.array_equal(_round_trip(tail[:before], tokenizer), tail[:before]):
            continue
        again = _round_trip(tail, tokenizer)
        if not len(again):
            return tokens
        if np.array_equal(again[:before], tail[:before]):
            forged = control is not None and not control.same(tail.tolist(), again.tolist())
            return tokens if forged else np.concatenate((prompt, again[before:]))
    return tokens


def _round_trip(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The ids that the tokenizer makes of the text of ``tokens``; none if the text has half a character."""
    text = decode_ids(tokenizer, tokens.tolist(), special=True)
    return np.asarray([] if "\ufffd" in text else encode_text(tokenizer, text), np.int64)
