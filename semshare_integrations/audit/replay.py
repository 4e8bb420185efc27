"""Run logged requests against an engine, and count what was saved, per kind of edit."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from semshare_core import ReuseReport, SemShareEngine
from semshare_core.errors import PromptError
from semshare_core.model.lock import lock_of
from semshare_core.prompt.encode import Prompt
from semshare_core.quality.divergence import divergence
from semshare_integrations.audit.log_file import prompts_of

NOTHING_NEAR = "nothing like it before"
THE_SAME = "the same, or a beginning of it"


@dataclass(frozen=True)
class Replayed:
    """One request.

    Attributes:
        number: of its line.
        kind: of the edit that made it from the nearest earlier prompt.
        kl: the KL to the full prefill in nats, the mean over the answer's first tokens; None: not in the sample.
        agreement: the share of these tokens at which both find the same likeliest.
        full_ms: the time of the full prefill; None: not in the sample.
    """

    number: int
    kind: str
    report: ReuseReport
    kl: float | None = None
    agreement: float | None = None
    full_ms: float | None = None


@dataclass
class Kind:
    """All requests of one kind of edit."""

    name: str
    requests: list[Replayed] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(each.report.prompt_tokens for each in self.requests)

    @property
    def computed(self) -> float:
        """The share of them whose rows were computed, over all layers."""
        rows = sum(each.report.recompute_ratio * each.report.prompt_tokens for each in self.requests)
        return rows / max(1, self.prompt_tokens)

    @property
    def prefix(self) -> float:
        """The share that a lossless prefix served, which is what other servers' caches do."""
        return sum(each.report.lossless_prefix_tokens for each in self.requests) / max(1, self.prompt_tokens)

    @property
    def sample(self) -> list[Replayed]:
        """Those that were compared with the full prefill."""
        return [each for each in self.requests if each.kl is not None]

    @property
    def mean_kl(self) -> float | None:
        """Over the sample."""
        found = [each.kl for each in self.sample if each.kl is not None]
        return sum(found) / len(found) if found else None

    @property
    def worst_kl(self) -> float | None:
        """Over the sample."""
        return max((each.kl for each in self.sample if each.kl is not None), default=None)

    @property
    def speedup(self) -> float | None:
        """Full prefill / time to the first token, over the sample."""
        full = sum(each.full_ms or 0.0 for each in self.sample)
        ours = sum(each.report.ttft_ms for each in self.sample)
        return full / ours if self.sample and ours else None


def replay(
    engine: SemShareEngine, requests: Iterable[tuple[int, Mapping[str, Any] | str]], *, sample: float, seed: int
) -> Iterator[Replayed | tuple[int, str]]:
    """Prefill each request in its turn, and store it for the later ones. A pair: a request that was left out, and why.

    The user, ``prompt_cache_key`` and ``cache_salt`` of a request divide the pool, as different keys would.

    Args:
        sample: the share of the requests that reuse rows and are compared with the full prefill.
        seed: draws the sample.
    """
    draw = random.Random(seed)
    for number, request in requests:
        if isinstance(request, str):
            yield number, request
            continue
        try:
            prompts = prompts_of(engine, request)
        except ValueError as error:
            yield number, str(error)
            continue
        for prompt in prompts:
            try:
                made = engine.prefill(prompt, namespace=_namespace(request))
            except PromptError as error:
                yield number, str(error)
                continue
            if made.report.reused_tokens and draw.random() < sample:
                yield _compared(engine, number, prompt, made.logits, made.cache, made.report)
            else:
                yield Replayed(number, kind_of(made.report), made.report)


def kind_of(report: ReuseReport) -> str:
    """What was edited."""
    if report.first_difference is not None:
        return report.first_difference.kind
    return THE_SAME if report.prefix_tokens else NOTHING_NEAR


def by_kind(replayed: Iterable[Replayed]) -> list[Kind]:
    """The kinds of edits, those with most tokens first."""
    kinds: dict[str, Kind] = {}
    for each in replayed:
        kinds.setdefault(each.kind, Kind(each.kind)).requests.append(each)
    return sorted(kinds.values(), key=lambda kind: -kind.prompt_tokens)


def _compared(
    engine: SemShareEngine, number: int, prompt: Prompt, logits: torch.Tensor, cache: Any, report: ReuseReport
) -> Replayed:
    full_ms = engine.prefill(prompt, reuse="off", store=False).report.ttft_ms
    ids = torch.as_tensor(engine.token_ids(prompt), device=engine.model.device)
    with lock_of(engine.model):  # healing may not run meanwhile
        found = divergence(engine.model, ids, cache, logits)
    kl, agreement = float(found.kl.mean()), float(found.agree.mean())
    return Replayed(number, kind_of(report), report, kl, agreement, full_ms)


def _namespace(request: Mapping[str, Any]) -> str:
    parts = [str(request.get(name) or "") for name in ("user", "prompt_cache_key", "cache_salt")]
    return "audit " + "\n".join(parts)
