"""How an answer will be spelled when its text comes back.

A conversation's next prompt brings the answer as text, which is tokenised again; a sampled answer, or one held to a
grammar, may be spelled in other tokens than that. Rows are kept for the tokens that will be asked for.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerBase

from semshare_core.match.plan import Tokens

_BEFORE = 16  # tokens of the prompt that are spelled again with the answer, for those at its border may join with it


def respelled(prompt: Tokens, generated: Sequence[int], tokenizer: PreTrainedTokenizerBase) -> Tokens:
    """Prompt and answer as int64 ids, the answer as the tokenizer spells its text.

    They stay as they are where the text does not tell the tokens: half a character at the end, or a tokenizer that does
    not spell the prompt's end in the prompt's own tokens again.
    """
    before = min(_BEFORE, len(prompt))
    tokens = np.concatenate((prompt, np.asarray(generated, np.int64)))
    tail = tokens[len(prompt) - before :]
    text = str(tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False))
    if "\ufffd" in text:
        return tokens
    again = np.asarray(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], np.int64)
    if not np.array_equal(again[:before], tail[:before]):
        return tokens
    return np.concatenate((prompt, again[before:]))
