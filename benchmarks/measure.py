"""How far a reused prefill lies from the full one: both measured in one run, along the full prefill's continuation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.model.cache_argument import with_cache
from semshare_core.prompt.encode import Prompt
from semshare_core.quality.divergence import Continuation, Divergence

CONTINUED_TOKENS = 48


@dataclass(frozen=True)
class Baseline:
    """A full prefill by plain transformers: what everything else is compared with.

    Attributes:
        ids: int64 [1, n].
        seconds: from token ids to the first token.
        continuation: int64 [k], greedy.
        log_probs: float32 [k, vocabulary], before each token of the continuation.
    """

    ids: Tensor
    seconds: float
    continuation: Tensor
    log_probs: Tensor


@torch.no_grad()
def full_prefill(model: PreTrainedModel, ids: Tensor) -> tuple[float, Tensor, DynamicCache]:
    """Seconds from token ids [1, n] to the first token, its logits [vocabulary], and the cache."""
    started = time.perf_counter()
    cache = DynamicCache(config=model.config)
    logits = model(input_ids=ids, **with_cache(model, cache), use_cache=True, logits_to_keep=1).logits[0, -1]
    int(logits.argmax())
    return time.perf_counter() - started, logits, cache


def baseline(engine: SemShareEngine, prompt: Prompt, tokens: int = CONTINUED_TOKENS) -> Baseline:
    """Prefill in full with plain transformers and continue greedily for ``tokens``."""
    model = engine.model
    ids = torch.tensor([engine.token_ids(prompt)], device=model.device)
    seconds, logits, cache = full_prefill(model, ids)
    continuation, log_probs = Continuation(model, cache).greedy(logits, tokens)
    return Baseline(ids, seconds, continuation, log_probs)


def divergence(
    model: PreTrainedModel, base: Baseline, logits: Tensor, cache: Cache, stepwise: bool = False
) -> Divergence:
    """Compare a prefilled ``cache`` and its next-token ``logits`` [vocabulary] with the baseline.

    ``stepwise``: see :meth:`Continuation.follow`.
    """
    reused = Continuation(model, cache).follow(logits, base.continuation, stepwise=stepwise)
    return Divergence.between(base.log_probs, reused)


@dataclass(frozen=True)
class Measured:
    """A call beside the full prefill of the same prompt.

    Attributes:
        report: of the first of the repeated calls, as is the divergence.
        ttft_ms: of each repeated call, with lookup, matching and rearranging.
        full_seconds: TTFT of the full prefill in the same run.
    """

    report: ReuseReport
    divergence: Divergence
    ttft_ms: tuple[float, ...]
    full_seconds: float

    @property
    def speedup(self) -> float:
        return 1e3 * self.full_seconds / median(self.ttft_ms)

    @property
    def kl(self) -> float:
        return float(self.divergence.kl.mean())

    @property
    def agreement(self) -> float:
        return float(self.divergence.agree.mean())


def measure(
    engine: SemShareEngine,
    prompt: Prompt,
    reuse: str | ReusePolicy,
    base: Baseline,
    namespace: str | None = None,
    repeats: int = 1,
) -> Measured:
    """Prefill ``prompt`` with reuse, nothing stored, and compare it with ``base``."""
    result = engine.prefill(prompt, reuse=reuse, namespace=namespace, store=False)
    report = result.report
    retained = report.kv_bytes < report.kv_bytes_full
    found = divergence(engine.model, base, result.logits, result.cache, stepwise=retained)
    del result  # its cache is as large as the prompt's; the repeated calls need one of their own
    times = [report.ttft_ms]
    while len(times) < repeats:
        times.append(engine.prefill(prompt, reuse=reuse, namespace=namespace, store=False).report.ttft_ms)
    return Measured(report, found, tuple(times), base.seconds)


@torch.no_grad()
def greedy(engine: SemShareEngine, prompt: Prompt, tokens: int) -> list[int]:
    """What plain ``model.generate`` answers."""
    ids = torch.tensor([engine.token_ids(prompt)], device=engine.model.device)
    made = engine.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False)
    return [int(token) for token in made[0, ids.shape[1] :]]
