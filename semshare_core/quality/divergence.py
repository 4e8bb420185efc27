"""How far a reused prefill lies from the full one, token by token along a continuation of the prompt.

The one measure behind the benchmarks, calibration and the canary: KL(full || reuse) of the next-token distributions,
and whether both would choose the same token.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.model.cache_argument import with_cache

Turn = Callable[[], AbstractContextManager[object]]
"""Makes the context in which one forward pass runs, such as a lock."""

_PASS_TOKENS = 256  # of a prompt: more in one pass would keep others from the model for longer


@dataclass(frozen=True)
class Divergence:
    """KL(full || reuse) in nats, float64 [k], and top-1 agreement, bool [k], per continued token."""

    kl: NDArray[np.float64]
    agree: NDArray[np.bool_]

    @classmethod
    def between(cls, full: Tensor, reused: Tensor) -> Divergence:
        """Of two arrays of log-probabilities [k, vocabulary]."""
        terms = torch.where(full > -torch.inf, full.exp() * (full - reused), 0)
        agree = full.argmax(dim=-1) == reused.argmax(dim=-1)
        return cls(terms.sum(dim=-1).double().cpu().numpy(), agree.cpu().numpy())


class Continuation:
    """A model that reads on behind what ``cache`` holds; each forward pass has its own ``turn``."""

    def __init__(self, model: PreTrainedModel, cache: Cache, turn: Turn = nullcontext) -> None:
        self._model = model
        self._cache = cache
        self._turn = turn
        self._keeps_logits = "logits_to_keep" in inspect.signature(model.forward).parameters

    @torch.no_grad()
    def read(self, tokens: Tensor, keep: int) -> Tensor:
        """Append ``tokens`` [m] in one pass; logits [keep, vocabulary] behind the last ``keep`` of them."""
        extra = with_cache(self._model, self._cache)
        if self._keeps_logits:
            extra["logits_to_keep"] = keep
        with self._turn():
            output = self._model(input_ids=tokens[None], use_cache=True, **extra)
            logits: Tensor = output.logits[0, -keep:]
            return logits

    def prefill(self, ids: Tensor) -> Tensor:
        """Append a prompt ``ids`` [n] in passes of bounded size; logits [vocabulary] of the token behind it."""
        for part in ids.split(_PASS_TOKENS):
            logits = self.read(part, 1)
        return logits[0]

    def follow(self, logits: Tensor, tokens: Tensor, *, stepwise: bool = False) -> Tensor:
        """Log-probabilities float32 [k, vocabulary] before each of ``tokens`` [k], given ``logits`` before the first.

        ``stepwise`` reads token by token, as decoding does: needed after compression, whose layers hold different
        numbers of rows, so that no one mask over several queries fits them all.
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
    answer: Tensor | None = None,
    tokens: int = MEASURED_TOKENS,
    stepwise: bool = False,
    turn: Turn = nullcontext,
) -> Divergence:
    """Prefill a prompt in full with plain transformers, and compare a reused prefill of it.

    Args:
        ids: int64 [n], the prompt, on the model's device.
        cache: the reused rows of the prompt; the continuation is appended to it.
        logits: [vocabulary] behind the prompt; None: ``cache`` lacks the last prompt token, which is read first.
        answer: int64 [any], what was generated, to be followed; None: the full prefill's greedy continuation.
        tokens: at most so many tokens of the continuation are compared.
        stepwise: read token by token, which layers of different lengths need (after compression).
        turn: the context of each forward pass.
    """
    full = Continuation(model, DynamicCache(config=model.config), turn)
    first = full.prefill(ids)
    if answer is None:
        continuation, expected = full.greedy(first, tokens)
    else:
        continuation = answer[:tokens]
        expected = full.follow(first, continuation)
    del full  # its rows are as many as the reused ones
    reused = Continuation(model, cache, turn)
    if logits is None:
        logits = reused.read(ids[-1:], 1)[0]
    return Divergence.between(expected, reused.follow(logits, continuation, stepwise=stepwise))
