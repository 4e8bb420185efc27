"""Run logged requests against an engine, and count what was saved, per kind of edit."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch

from semshare_core import Prefill, ReuseReport, SemShareEngine
from semshare_core.errors import PromptError
from semshare_core.model.lock import lock_of
from semshare_core.quality.divergence import divergence
from semshare_integrations.audit.log_file import prompts_of

NOTHING_NEAR = "nothing like it before"
THE_SAME = "the same, or a beginning of it"

_DIVIDING = ("user", "cache_salt")
_BLOCK = 16  # tokens, as vLLM's prefix cache has them


@dataclass(frozen=True)
class Replayed:
    """One request.

    Attributes:
        number: of its line.
        kind: of the edit that made it from the nearest earlier prompt.
        computed: the rows that were computed, in tokens with all layers.
        reused: whether it reused rows.
        cached: the leading tokens that a prefix cache would have served.
        kl: the KL to the full prefill in nats, the mean over the answer's first tokens; None: not in the sample.
        full_ms: the time of the full prefill; None: not in the sample.
    """

    number: int
    kind: str
    prompt_tokens: int
    computed: float
    reused: bool
    ttft_ms: float
    cached: int
    kl: float | None = None
    full_ms: float | None = None


@dataclass
class Kind:
    """All requests of one kind of edit."""

    name: str
    requests: list[Replayed] = field(default_factory=list)

    @property
    def prompt_tokens(self) -> int:
        """Tokens of all prompts."""
        return sum(each.prompt_tokens for each in self.requests)

    @property
    def computed(self) -> float:
        """The share of them whose rows were computed, over all layers."""
        return sum(each.computed for each in self.requests) / max(1, self.prompt_tokens)

    @property
    def prefix(self) -> float:
        """The share that a prefix cache would have served, had it all earlier prompts."""
        return sum(each.cached for each in self.requests) / max(1, self.prompt_tokens)

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
        """Full prefills / times to the first token.

        The sample stands for all that reused rows. The others were prefilled in full, which is as fast on both sides.
        """
        alone = sum(each.ttft_ms for each in self.requests if not each.reused)
        reused = sum(each.reused for each in self.requests)
        if not self.requests or (reused and not self.sample):
            return None
        weight = reused / max(1, len(self.sample))
        full = alone + weight * sum(each.full_ms or 0.0 for each in self.sample)
        ours = alone + weight * sum(each.ttft_ms for each in self.sample)
        return full / ours if ours else None


class PrefixCache:
    """What a prefix cache of other servers would hold, in blocks of 16 tokens, without an end to its memory."""

    def __init__(self) -> None:
        self._blocks: set[bytes] = set()

    def served(self, namespace: str, ids: Sequence[int]) -> int:
        """The leading tokens of ``ids`` that it serves. Then it holds all of them."""
        found, missed, digest = 0, False, namespace.encode()
        for end in range(_BLOCK, len(ids) + 1, _BLOCK):
            block = np.asarray(ids[end - _BLOCK : end], np.int64)
            digest = hashlib.blake2b(digest + block.tobytes(), digest_size=16).digest()
            missed |= digest not in self._blocks
            found += 0 if missed else _BLOCK
            self._blocks.add(digest)
        return min(found, len(ids) - 1)  # the last token is computed in any case


def replay(
    engine: SemShareEngine, requests: Iterable[tuple[int, Mapping[str, Any] | str]], *, sample: float, seed: int
) -> Iterator[Replayed | tuple[int, str]]:
    """Prefill each request in its turn, and store it for the later ones. A pair: a request that was left out, and why.

    The user and the ``cache_salt`` of a request divide the pool, as different keys and salts would.

    Args:
        sample: the share of the requests that reuse rows and are compared with the full prefill.
        seed: draws the sample.
    """
    draw, cache = random.Random(seed), PrefixCache()
    for number, request in requests:
        if isinstance(request, str):
            yield number, request
            continue
        try:
            prompts = prompts_of(engine, request)
        except ValueError as error:
            yield number, str(error)
            continue
        namespace = _namespace(request)
        for prompt in prompts:
            try:
                made = engine.prefill(prompt, namespace=namespace)
            except PromptError as error:
                yield number, str(error)
                continue
            ids = engine.token_ids(prompt)
            found = _replayed(number, made.report, cache.served(namespace, ids))
            if found.reused and draw.random() < sample:
                found = _compared(engine, found, ids, made)
            yield found


def _replayed(number: int, report: ReuseReport, cached: int) -> Replayed:
    """What is counted of a report, which itself has numbers for each token."""
    return Replayed(
        number,
        kind_of(report),
        report.prompt_tokens,
        report.recompute_ratio * report.prompt_tokens,
        bool(report.reused_tokens),
        report.ttft_ms,
        cached,
    )


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


def _compared(engine: SemShareEngine, found: Replayed, ids: list[int], made: Prefill) -> Replayed:
    full_ms = engine.prefill(ids, reuse="off", store=False).report.ttft_ms
    with lock_of(engine.model):  # healing may not run meanwhile
        measured = divergence(engine.model, torch.as_tensor(ids, device=engine.model.device), made.cache, made.logits)
    return replace(found, kl=float(measured.kl.mean()), full_ms=full_ms)


def _namespace(request: Mapping[str, Any]) -> str:
    parts = json.dumps([str(request.get(name) or "") for name in _DIVIDING])  # ASCII, whatever stands there
    return "audit " + hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
