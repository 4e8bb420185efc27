"""How far a reused prefill lies from the full one, token by token along a continuation of the prompt.

Benchmarks, calibration and the canary all use this measure: KL(full || reuse) of the next-token distributions, and
whether both choose the same token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from copy import copy
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.compress.live.compressed import CompressedCache
from semshare_core.model.cache_argument import with_cache
from semshare_core.model.lock import CallWaits
from semshare_core.prefill.cache import InterruptibleCache
from semshare_core.process.interrupt import NEVER, Interrupt

PassContext = Callable[[], AbstractContextManager[Interrupt]]
"""Makes the context in which one forward pass runs, for example a lock. What it gives may interrupt the pass."""

_PASS_TOKENS = 256  # per pass: one that a call interrupts is run again


@dataclass(frozen=True)
class Divergence:
    """KL(full || reuse) in nats, float64 [k], and top-1 agreement, bool [k], per continued token."""

    kl: NDArray[np.float64]
    agree: NDArray[np.bool_]

    @classmethod
    def between(cls, full: Tensor, reused: Tensor) -> Divergence:
        """Compare two arrays of log-probabilities [k, vocabulary]."""
        terms = torch.where(full > -torch.inf, full.exp() * (full - reused), 0)
        agree = full.argmax(dim=-1) == reused.argmax(dim=-1)
        return cls(terms.sum(dim=-1).double().cpu().numpy(), agree.cpu().numpy())


@contextmanager
def uninterrupted() -> Iterator[Interrupt]:
    """The context of passes that nothing interrupts."""
    yield NEVER


class Continuation:
    """Forward passes of a model that append to ``cache``, each in a new ``pass_context``.

    A pass over an :class:`InterruptibleCache` that :class:`CallWaits` ends is undone and run again, unless a compressor
    works on the cache.
    """

    def __init__(self, model: PreTrainedModel, cache: Cache, pass_context: PassContext = uninterrupted) -> None:
        self._model = model
        self._cache = cache
        self._pass_context = pass_context
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def read(self, tokens: Tensor, keep: int) -> Tensor:
        """Append ``tokens`` [m] in one pass. Returns the logits [keep, vocabulary] after the last ``keep`` of them."""
        extra = with_cache(self._model, self._cache)
        if self._keeps_logits:
            extra["logits_to_keep"] = keep
        while True:
            before = list(map(copy, self._cache.layers))  # appending makes new tensors, or writes behind the rows
            try:
                with self._pass_context() as interrupt:
                    if isinstance(self._cache, InterruptibleCache) and not isinstance(self._cache, CompressedCache):
                        self._cache.interrupt = interrupt
                    output = self._model(input_ids=tokens[None], use_cache=True, **extra)
                    logits: Tensor = output.logits[0, -keep:]
                    return logits
            except CallWaits:
                self._cache.layers[:] = before

    def prefill(self, ids: Tensor) -> Tensor:
        """Append a prompt ``ids`` [n] in short passes. Returns the logits [vocabulary] of the next token."""
        for part in ids.split(_PASS_TOKENS):
            logits = self.read(part, 1)
        return logits[0]

    def follow(self, logits: Tensor, tokens: Tensor, *, stepwise: bool = False) -> Tensor:
        """Log-probabilities float32 [k, vocabulary] before each of ``tokens`` [k], given ``logits`` before the first.

        ``stepwise`` reads one token per pass, as decoding does. A compressed cache needs it: its layers have different
        numbers of rows, so a mask over several queries would not fit all of them.
        """
        parts = tokens[:-1].split(1 if stepwise else len(tokens))
        rest = [self.read(part, len(part)) for part in parts if len(part)]
        return torch.log_softmax(torch.cat((logits[None], *rest)).float(), dim=-1)

    def greedy(self, logits: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
        """The likeliest continuation int64 [tokens], and the log-probabilities as :meth:`follow` gives them."""
        steps = [logits]
        while len(steps) < tokens:
            steps.append(self.read(steps[-1].argmax()[None], 1)[0])
        stacked = torch.stack(steps)
        return stacked.argmax(dim=-1), torch.log_softmax(stacked.float(), dim=-1)


def divergence(
    model: PreTrainedModel,
    ids: Tensor,
    cache: Cache,
    logits: Tensor | None = None,
    *,
    full: Cache | None = None,
    answer: Tensor | None = None,
    tokens: int = MEASURED_TOKENS,
    stepwise: bool = False,
    pass_context: PassContext = uninterrupted,
) -> Divergence:
    """Prefill a prompt in full with plain transformers, and compare a prefill that reused rows with it.

    Args:
        ids: int64 [n], the prompt, on the model's device.
        cache: the prompt's reused rows. The continuation is appended to it.
        logits: [vocabulary] after the prompt. None: ``cache`` lacks the last prompt token, which is read first.
        full: the full prefill's rows of all prompt tokens but the last. The continuation is appended. None: they are
            computed here.
        answer: int64 [any], the generated tokens. None: the full prefill's greedy continuation.
        tokens: the largest number of tokens to compare.
        stepwise: see ``Continuation.follow``.
        pass_context: makes the context of each forward pass.
    """
    if full is None:
        expecting = Continuation(model, InterruptibleCache(DynamicCache(config=model.config).layers), pass_context)
        first = expecting.prefill(ids)
    else:
        expecting = Continuation(model, full, pass_context)
        first = expecting.read(ids[-1:], 1)[0]
    if answer is None:
        continuation, expected = expecting.greedy(first, tokens)
    else:
        continuation = answer[:tokens]
        expected = expecting.follow(first, continuation)
    del expecting  # its rows are as many as the reused ones
    reused = Continuation(model, cache, pass_context)
    if logits is None:
        logits = reused.read(ids[-1:], 1)[0]
    return Divergence.between(expected, reused.follow(logits, continuation, stepwise=stepwise))
