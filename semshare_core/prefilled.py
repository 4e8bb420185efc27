"""A prompt whose cache is filled: left is to decode and to commit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.budget.governor import Decision
from semshare_core.errors import NumericalError
from semshare_core.lookup.find import Lookup
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention.bit_blocks import block_of, whole_blocks
from semshare_core.prefill.cache import InterruptibleCache
from semshare_core.prefill.selective import Prefilled
from semshare_core.process.interrupt import NEVER
from semshare_core.report import Outcome

if TYPE_CHECKING:
    from semshare_core.request import Request


@dataclass(frozen=True)
class RequestPlan:
    """What is to be reused and recomputed for one request.

    Attributes:
        lookup: the reuse plan, and the entries that it draws on.
        decision: how much is recomputed, or why everything is.
        movable: whether rows may stand elsewhere than where they were computed (and so be kept at all).
        reserve: tokens that will be appended behind the prompt.
    """

    lookup: Lookup
    decision: Decision
    movable: bool
    reserve: int

    def prefix_only(self) -> RequestPlan:
        """Without the approximate sources, for a request that computes everything behind its prefix.

        A decision for ``lossless`` ends the prefix where its rows are no longer those of a full prefill.
        """
        plan = self.lookup.plan
        approximate = (plan.source == Source.MOVED) | (plan.source == Source.FUZZY)
        if self.decision.lossless:
            approximate |= self.lookup.depths(recomputed=np.zeros(len(plan), bool)) > 0
        source, reference, position = plan.source.copy(), plan.reference.copy(), plan.position.copy()
        source[approximate], reference[approximate], position[approximate] = Source.NEW, -1, -1
        prefix = ReusePlan(source, reference, position, plan.reference_ids, plan.similarity)
        return replace(self, lookup=replace(self.lookup, plan=prefix))


@dataclass
class PrefilledRequest:
    """The cache holds all prompt tokens but the last ``pending``, which the first decoding step computes.

    Attributes:
        request: whose prompt it is; ``planned``: what was to be done for it.
        ids: int64 [n], the prompt on the model's device.
        prefilled: what the prefill made.
        cache: what decoding reads: that of ``prefilled``, or what a live compressor kept of it.
        started: when the prefill began (``time.perf_counter``).
    """

    request: Request
    planned: RequestPlan
    ids: Tensor
    prefilled: Prefilled
    cache: InterruptibleCache
    started: float

    @cached_property
    def depths(self) -> NDArray[np.uint8]:
        """Approximate reuses behind each row [n]."""
        return self.planned.lookup.depths(self.prefilled.recomputed)

    @property
    def pending(self) -> int:
        """Prompt tokens whose rows the cache lacks yet, at least 1."""
        return self.prefilled.pending

    @property
    def compressed(self) -> bool:
        """Whether decoding reads other rows than the prefill made."""
        return self.cache is not self.prefilled.cache

    @property
    def approximate(self) -> bool:
        """Whether decoding reads other rows than a full prefill's: approximate ones, or not all of them."""
        return self.compressed or self.planned.decision.budget is not None or bool(self.depths.any())

    @property
    def room(self) -> int:
        """Tokens that may follow the prompt."""
        return max(1, self.request.runtime.room - len(self.ids))

    @property
    def outcome(self) -> Outcome:
        """How the prompt was served."""
        if self.planned.decision.budget is not None:
            return "semantic"
        if self.planned.lookup.plan.prefix_tokens:
            return "prefix"
        return "bypass" if self.planned.decision.bypassed else "miss"

    @property
    def kl_bound(self) -> float:
        """The laxest bound that its approximate rows were made under, in nats: the goal's or that of what it read."""
        own = 0.0 if self.planned.decision.budget is None else self.request.goal.bound
        return max(own, self.planned.lookup.kl_bound)

    @property
    def steady(self) -> int | None:
        """Leading rows whose bits do not depend on where this prompt ended; None: no row's do."""
        block, n = block_of(self.request.runtime.model), len(self.ids)
        if block == 1:
            return None
        lookup = self.planned.lookup
        if self.planned.decision.budget is not None or lookup.steady < lookup.plan.prefix_tokens:
            return lookup.steady
        return whole_blocks(n - 1 if self.pending == 1 else n, block)

    def logits(self) -> Tensor:
        """Logits [vocabulary] of the next token; the pending rows are computed into the cache."""
        return self.request.runtime.prefill.last_logits(self.cache, self.ids, self.pending)

    def hand_over(self) -> None:
        """The cache is the caller's from now on: no limit of this request ends what he does with it."""
        for cache in (self.cache, self.prefilled.cache):
            cache.interrupt = NEVER

    @contextmanager
    def distrust(self) -> Iterator[None]:
        """While the answer is computed: if it is not made of numbers, the references it drew on leave the pool."""
        try:
            yield
        except NumericalError:
            self.request.runtime.pool.discard(self.planned.lookup.used)
            raise
