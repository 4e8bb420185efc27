"""A request between its stages: planned, and prefilled."""

from __future__ import annotations

import math
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
    """The plan of one request: what it reuses and what it recomputes.

    Attributes:
        lookup: the reuse plan and its references.
        decision: how much is recomputed, or the reason to recompute everything.
        movable: whether rows may move to other positions. Otherwise they are not stored either.
        reserve: the number of tokens that will follow the prompt.
    """

    lookup: Lookup
    decision: Decision
    movable: bool
    reserve: int

    def prefix_only(self) -> RequestPlan:
        """The same plan without moved and fuzzy tokens. The request computes everything after its prefix."""
        plan = self.lookup.plan
        behind = plan.source != Source.PREFIX
        source, reference, position = plan.source.copy(), plan.reference.copy(), plan.position.copy()
        source[behind], reference[behind], position[behind] = Source.NEW, -1, -1
        account = None if plan.account is None else np.where(behind, 0.0, plan.account)
        prefix = ReusePlan(source, reference, position, plan.reference_ids, plan.similarity, account=account)
        return replace(self, lookup=replace(self.lookup, plan=prefix))


@dataclass
class PrefilledRequest:
    """A request whose cache has all prompt tokens but the last ``pending``. The first decoding step computes those.

    Attributes:
        planned: the request's plan.
        ids: int64 [n], the prompt on the model's device.
        whole: the result of the prefill, with all rows.
        cache: the cache for decoding: the same cache, or a compressed one.
        started: when the prefill began (``time.perf_counter``).
    """

    request: Request
    planned: RequestPlan
    ids: Tensor
    whole: Prefilled
    cache: InterruptibleCache
    started: float

    @cached_property
    def approximate_rows(self) -> NDArray[np.bool_]:
        """Bool [n]; see :meth:`semshare_core.lookup.find.Lookup.approximate`."""
        return self.planned.lookup.approximate(self.whole.recomputed)

    @property
    def lossless_prefix(self) -> int:
        """So many leading rows were reused, and are a full prefill's."""
        prefix = self.planned.lookup.plan.prefix_tokens
        other = self.approximate_rows[:prefix] | self.whole.recomputed[:prefix]
        return int(other.argmax()) if other.any() else prefix

    @property
    def pending(self) -> int:
        """The number of last prompt tokens that the cache lacks, at least 1."""
        return self.whole.pending

    @property
    def compressed(self) -> bool:
        """Whether decoding reads a compressed cache."""
        return self.cache is not self.whole.cache

    @property
    def approximate(self) -> bool:
        """Whether decoding reads approximate rows, or only some of the rows."""
        return self.compressed or self.planned.decision.budget is not None or bool(self.approximate_rows.any())

    @property
    def room(self) -> int:
        """The number of tokens that fit after the prompt."""
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
    def account(self) -> float:
        """The account of its rows, in nats: 0 if all are lossless. A prefix alone has that of the rows it reused."""
        if not self.approximate_rows.any():
            return 0.0
        if self.planned.decision.budget is not None:
            return self.planned.decision.account
        reused = self.planned.lookup.plan.account
        assert reused is not None, "some row is approximate"
        return float(reused.max())

    @property
    def expected_kl(self) -> float | None:
        """The forecast KL in nats. A prefix alone is expected to be as far off as its rows' account says."""
        if not self.compressed and not self.approximate_rows.any():  # a ratio of 1 leaves none of the reused rows
            return 0.0
        if self.planned.decision.budget is not None:
            return self.planned.decision.expected_kl
        return None if self.compressed or math.isinf(self.account) else self.account

    @property
    def steady(self) -> int | None:
        """The number of leading rows whose bits do not depend on where the prompt ends; None: all rows."""
        block, n = block_of(self.request.runtime.model), len(self.ids)
        if block == 1:
            return None
        lookup = self.planned.lookup
        if self.planned.decision.budget is not None or lookup.steady < lookup.plan.prefix_tokens:
            return lookup.steady
        return whole_blocks(n - 1 if self.pending == 1 else n, block)

    def hand_over(self) -> None:
        """Give the cache to the caller: the request's limits no longer interrupt it, and its rows are its own."""
        for cache in (self.cache, self.whole.cache):
            cache.interrupt = NEVER
        if not self.compressed:
            self.whole.cache.move_out()

    @contextmanager
    def distrust(self) -> Iterator[None]:
        """Remove the references from the pool if the logits within the context are not numbers."""
        try:
            yield
        except NumericalError:
            self.request.runtime.pool.discard(self.planned.lookup.used)
            raise
