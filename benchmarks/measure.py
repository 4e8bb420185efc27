"""How far a reused prefill lies from the full one: both measured in one run, along the full prefill's continuation."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import Cache

from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.prompt import Prompt

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


@dataclass(frozen=True)
class Divergence:
    """KL(full || reuse) in nats and top-1 agreement per continued token, arrays [k]."""

    kl: NDArray[np.float64]
    agree: NDArray[np.bool_]


@torch.no_grad()
def full_prefill(model: PreTrainedModel, ids: Tensor) -> tuple[float, Tensor, DynamicCache]:
    """Seconds from token ids [1, n] to the first token, its logits [vocabulary], and the cache."""
    started = time.perf_counter()
    cache = DynamicCache(config=model.config)
    logits = model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[0, -1]
    int(logits.argmax())
    return time.perf_counter() - started, logits, cache


@torch.no_grad()
def baseline(engine: SemShareEngine, prompt: Prompt, tokens: int = CONTINUED_TOKENS) -> Baseline:
    """Prefill in full with plain transformers and continue greedily for ``tokens``."""
    model = engine.model
    ids = torch.tensor([engine.token_ids(prompt)], device=model.device)
    seconds, logits, cache = full_prefill(model, ids)
    continuation, log_probs = [], []
    for _ in range(tokens):
        log_probs.append(torch.log_softmax(logits.float(), dim=-1))
        continuation.append(int(logits.argmax()))
        step = torch.tensor([[continuation[-1]]], device=ids.device)
        logits = model(input_ids=step, past_key_values=cache, use_cache=True).logits[0, -1]
    return Baseline(ids, seconds, torch.tensor(continuation, device=ids.device), torch.stack(log_probs))


@torch.no_grad()
def divergence(
    model: PreTrainedModel, base: Baseline, logits: Tensor, cache: Cache, stepwise: bool = False
) -> Divergence:
    """Compare a prefilled ``cache`` and its next-token ``logits`` [vocabulary] with the baseline.

    ``stepwise`` feeds the continuation token by token, as decoding does: needed after retention, whose layers hold
    different numbers of rows, so that no one mask over several queries fits them all.
    """
    steps = base.continuation[None, :-1].split(1 if stepwise else len(base.continuation), dim=1)
    rest = [model(input_ids=step, past_key_values=cache, use_cache=True).logits[0] for step in steps if step.numel()]
    log_probs = torch.log_softmax(torch.cat((logits[None], *rest)).float(), dim=-1)
    kl = (base.log_probs.exp() * (base.log_probs - log_probs)).sum(dim=-1)
    agree = log_probs.argmax(dim=-1) == base.continuation
    return Divergence(kl.double().cpu().numpy(), agree.cpu().numpy())


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
