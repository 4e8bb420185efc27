"""How an answer will be spelled when its text comes back.

A conversation's next prompt brings the answer as text, which is tokenised again; a sampled answer, or one held to a
grammar, may be spelled in other tokens than that. Rows are kept for the tokens that will be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from semshare_core.prompt.control_tokens import ControlTokens
from semshare_core.prompt.own_tokenizer import decode_ids, encode_text
from semshare_core.tokens import Tokens

# so many tokens of the prompt are spelled again with the answer, for those at its border may join with it
_BEFORE = (*range(16, 0, -1), *range(17, 65))


def retokenized(
    prompt: Tokens, generated: Sequence[int], tokenizer: PreTrainedTokenizerBase, control: ControlTokens | None = None
) -> Tokens:
    """Prompt and answer as int64 ids, the answer as the tokenizer spells its text.

    They stay as they are where the text does not tell the tokens: half a character at the end, a tokenizer that does
    not spell the prompt's end in the prompt's own tokens again, or text that would be taken for a ``control`` token,
    which it is not when it comes back in a message.
    """
    tokens = np.concatenate((prompt, np.asarray(generated, np.int64)))
    for before in _BEFORE:  # not every token is spelled so at the beginning of a text
        if before > len(prompt):
            continue
        tail = tokens[len(prompt) - before :]
        if not np.array_equal(_again(tail[:before], tokenizer), tail[:before]):
            continue
        again = _again(tail, tokenizer)
        if not len(again):
            return tokens
        if np.array_equal(again[:before], tail[:before]):
            kept = control is not None and not control.same(tail.tolist(), again.tolist())
            return tokens if kept else np.concatenate((prompt, again[before:]))
    return tokens


def _again(tokens: Tokens, tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """The ids that the text of ``tokens`` is spelled in; none if it has half a character."""
    text = decode_ids(tokenizer, tokens.tolist(), special=True)
    return np.asarray([] if "\ufffd" in text else encode_text(tokenizer, text), np.int64)
