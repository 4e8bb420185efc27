"""A copy of the caller's tokenizer, because the caller may change his while we use it.

``tokenizer(text, truncation=True, max_length=16)`` leaves its limit behind in a fast tokenizer, where it cuts whatever
another thread encodes at that moment (transformers issue 47085). So does padding, and the choice whether special tokens
are split. Our copy has a backend of its own that nobody changes. They share the vocabulary, which is large.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Collection, Hashable, Sequence
from weakref import WeakKeyDictionary

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core.process.forking import free

_PARTS = ("normalizer", "pre_tokenizer", "post_processor", "decoder")

_Copy = tuple[Tokenizer, Hashable, PreTrainedTokenizerBase]
"""The backend and the state that were copied, and the copy."""

_copies: WeakKeyDictionary[PreTrainedTokenizerBase, _Copy] = WeakKeyDictionary()
_copying = free(threading.Lock())


def own_tokenizer(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """The copy of ``tokenizer`` that we encode and decode with; made anew when tokens were added or their kind changed.

    A tokenizer in Python keeps nothing of one call for the next, so it is its own copy.
    """
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        return tokenizer
    backend = tokenizer.backend_tokenizer
    with _copying:
        state = _state(tokenizer)
        known = _copies.get(tokenizer)
        if known is None or known[0] is not backend or known[1] != state:
            own = copy.copy(tokenizer)
            own._tokenizer = backend_copy(backend)
            known = _copies[tokenizer] = (backend, state, own)
    return known[2]


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str, *, special: bool = False) -> list[int]:
    """The ids of ``text``, whole, whatever else is done with ``tokenizer``; ``special``: with its BOS and the like."""
    return list(own_tokenizer(tokenizer)(text, add_special_tokens=special, verbose=False)["input_ids"])


def decode_ids(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, special: bool) -> str:
    """The text of ``ids`` as it is, no spaces cleaned up; ``special``: with special tokens."""
    own = own_tokenizer(tokenizer)
    return str(own.decode(ids, skip_special_tokens=not special, clean_up_tokenization_spaces=False))


def backend_copy(backend: Tokenizer, without: Collection[str] = ()) -> Tokenizer:
    """A backend that spells as ``backend`` does and cuts or pads nothing, ``without`` some of its added tokens."""
    made = Tokenizer(backend.model)
    for part in _PARTS:
        if (value := getattr(backend, part)) is not None:
            setattr(made, part, value)
    added: dict[int, AddedToken] = backend.get_added_tokens_decoder()
    made.add_tokens([token for _, token in sorted(added.items()) if token.content not in without])
    return made


def _state(tokenizer: PreTrainedTokenizerFast) -> Hashable:
    """What changes when a tokenizer comes to spell otherwise, beside its backend. Computed at every call."""
    return (
        *(repr(getattr(tokenizer.backend_tokenizer, part)) for part in _PARTS),
        len(tokenizer),
        tuple(tokenizer.all_special_tokens),
        getattr(tokenizer, "_add_bos_token", None),
        getattr(tokenizer, "_add_eos_token", None),
        tokenizer.split_special_tokens,
    )
