"""Decoding held to a grammar: tokens that would break it get no probability (llguidance computes which)."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor
from transformers import LogitsProcessor, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from semshare_core.decode import end_tokens
from semshare_core.errors import ConfigError, MissingDependencyError
from semshare_core.forking import free

try:
    import llguidance
    import llguidance.hf
except ModuleNotFoundError as error:
    if error.name != "llguidance":
        raise
    raise MissingDependencyError(
        "llguidance is not installed, which tool calls and structured output need. Install it with: "
        "pip install 'semshare[langchain]' or 'semshare[llamaindex]' (or pip install llguidance)."
    ) from error


def constraint(
    grammar: str, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_new_tokens: int, reserve: int
) -> LogitsProcessor:
    """A logits processor for one reply of ``model`` in the language of ``grammar``.

    Args:
        grammar: of :func:`reply_grammar` or :func:`json_grammar`.
        model: whose reply it is.
        tokenizer: a fast one.
        max_new_tokens: where the reply will be cut off.
        reserve: an upper bound of the tokens that coming to an end takes. When no more are left than it does take, JSON
            that was begun is brought to its end: strings close, lists and objects take no more than they must. A small
            model does not always find the end of a string by itself.

    Raises:
        ConfigError: the grammar, or a JSON schema in it, cannot be compiled; or the tokenizer is not a fast one, or
            none that llguidance can read.
    """
    held = _held(model, tokenizer)
    matcher = llguidance.LLMatcher(held.tokenizer, grammar)
    if matcher.is_error():
        raise ConfigError(f"the schema of a tool or answer cannot be held to: {matcher.get_error().strip()}")
    return _Constraint(matcher, held, max_new_tokens, reserve)


_SLACK = 6  # tokens: the model may spell what is forced in smaller pieces


@dataclass(frozen=True)
class _Held:
    """llguidance's view of a tokenizer; bool [vocabulary]: tokens that end what was begun in JSON; tokens' lengths."""

    tokenizer: Any
    ends: list[int]
    letter: int
    quotes: Tensor
    brackets: Tensor
    commas: Tensor
    lengths: Tensor


class _Constraint(LogitsProcessor):
    """Follows one sequence; what it has generated so far is told by the ids that are new since the last step."""

    def __init__(self, matcher: Any, held: _Held, max_new_tokens: int, reserve: int) -> None:
        self._matcher = matcher
        self._held = held
        self._left = max_new_tokens
        self._reserve = reserve
        self._seen = -1

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        n = input_ids.shape[1]
        if self._seen >= 0:
            self._matcher.consume_tokens(input_ids[0, self._seen :].tolist())
            self._left -= n - self._seen
        self._seen = n
        if self._matcher.is_error():
            raise ConfigError(f"the reply left its grammar: {self._matcher.get_error().strip()}")
        allowed = _allowed(self._matcher, scores.shape[-1])
        if self._left <= self._reserve and self._must_end(scores.shape[-1]):
            allowed = self._ending(allowed)
        return scores.masked_fill(~allowed.to(scores.device), -torch.inf)

    def _must_end(self, size: int) -> bool:
        """No token is left to spare; a reply that could end here has none for a further call."""
        return self._matcher.is_accepting() or self._left <= self._needed(size) + _SLACK

    def _needed(self, size: int) -> int:
        """Tokens that it takes to come to an end from here, found by doing so with a copy."""
        trial = self._matcher.deep_copy()
        count = 0
        while count < self._reserve and not trial.is_accepting() and not trial.is_stopped():
            ending = self._ending(_allowed(trial, size))
            trial.consume_token(int((self._held.lengths[:size] * ending).argmax()))
            count += 1
        return count

    def _ending(self, allowed: Tensor) -> Tensor:
        """Those of the ``allowed`` tokens that end something; all of them where nothing can end."""
        held = self._held
        letters = bool(allowed[held.letter])
        if allowed[held.ends].any():
            if letters:  # words, which may end anywhere
                return allowed
            fewer = torch.zeros_like(allowed)  # a call is complete: no further one
            fewer[held.ends] = allowed[held.ends]
            return fewer
        for kind in (held.quotes,) if letters else (held.brackets, held.commas):
            fewer = allowed & kind[: len(allowed)]
            if bool(fewer.any()):
                return fewer
        return allowed


def _allowed(matcher: Any, size: int) -> Tensor:
    """The tokens that may come next, bool [size]."""
    bits = np.unpackbits(np.frombuffer(matcher.compute_bitmask(), np.uint8), bitorder="little")
    allowed = torch.zeros(size, dtype=torch.bool)
    known = min(len(bits), size)
    allowed[:known] = torch.from_numpy(bits[:known].astype(bool))
    return allowed


_known: WeakKeyDictionary[PreTrainedTokenizerBase, _Held] = WeakKeyDictionary()
_making = free(threading.Lock())


def prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Make now what the first :func:`constraint` for ``tokenizer`` would make.

    That is done once for a tokenizer and takes tenths of a second, in which llguidance lets no other thread run, an
    event loop neither. What cannot be made is no error before a :func:`constraint` is asked for.
    """
    with suppress(ConfigError):
        _held(model, tokenizer)


def _held(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Held:
    """Made once for a tokenizer, whichever thread comes first."""
    with _making:
        if tokenizer not in _known:
            _known[tokenizer] = _make(model, tokenizer)
        return _known[tokenizer]


def _make(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> _Held:
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise ConfigError(
            f"{type(tokenizer).__name__} is not a fast tokenizer, which tool calls and structured output need: "
            "load the model's tokenizer.json."
        )
    ends = end_tokens(model.generation_config.eos_token_id) or end_tokens(tokenizer.eos_token_id)
    if not ends:
        raise ConfigError("the tokenizer names no end token, which tool calls and structured output need.")
    size = model.get_input_embeddings().num_embeddings
    try:
        made = llguidance.hf.from_tokenizer(tokenizer, n_vocab=size, eos_token=ends)
        spelled = [made.decode_bytes([token]).lstrip() for token in range(size)]
        letter = spelled.index(b"q")
    except ValueError as error:
        raise ConfigError(
            f"the tokenizer cannot be held to a grammar, which tool calls and structured output need: {error}. Use a "
            "model whose tokenizer spells bytes or letters, as BPE does."
        ) from error
    return _Held(
        tokenizer=made,
        ends=ends,
        letter=letter,
        quotes=torch.tensor([text.startswith(b'"') for text in spelled]),
        brackets=torch.tensor([text.startswith((b"}", b"]")) for text in spelled]),
        commas=torch.tensor([text.startswith((b",", b":")) for text in spelled]),
        lengths=torch.tensor([len(text) + 1 for text in spelled]),
    )
