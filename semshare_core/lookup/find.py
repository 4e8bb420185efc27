"""The lookup: search the pool, choose references, match tokens."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.goal import Goal
from semshare_core.embed.encoder import Embed
from semshare_core.lookup.choice import Choice, choose, choose_nearest, one_partner, usable_rows
from semshare_core.lookup.nearby import nearby, sharing_most
from semshare_core.lookup.search import Query, search
from semshare_core.match.facts import FactTokens
from semshare_core.match.matcher import build_plan
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.match.runs import kgram_hashes
from semshare_core.match.token_table import TokenTable
from semshare_core.pool.entry import View
from semshare_core.pool.pool import ReferencePool
from semshare_core.tokens import Tokens


@dataclass(frozen=True)
class Lookup:
    """A reuse plan and its references.

    Attributes:
        entries: the references that the plan may name.
        similarity: of the nearest entry, in [0, 1]. None without a search, or with an empty pool.
        lookup_ms: the time of search and choice; ``match_ms``: of matching.
        nearby: the tokens of earlier prompts of the request's own namespace that resemble it, int64 [m] each.
        blocked_coverage: the coverage lost to rows that may not serve, as a share of the suffix. Example: the best
            prompt would cover 90 % with all of its rows; the best usable rows cover 70 %; 20 % is blocked.
    """

    plan: ReusePlan
    entries: list[View]
    similarity: float | None
    lookup_ms: float
    match_ms: float
    blocked_coverage: float = 0.0
    nearby: tuple[Tokens, ...] = ()

    @property
    def used(self) -> list[View]:
        """The entries that serve at least one token."""
        drawn_on = set(self.plan.drawn_on)
        return [view for view in self.entries if view.id in drawn_on]

    @property
    def steady(self) -> int:
        """How many leading prefix rows have the same bits as in a full prefill of any longer prompt."""
        prefix = self.plan.prefix_tokens
        if not prefix:
            return 0
        steady = self._by_id[self.plan.reference_ids[self.plan.reference[0]]].steady
        return prefix if steady is None else min(prefix, steady)

    @property
    def kl_bound(self) -> float:
        """The largest KL bound, in nats, of the approximate rows that serve; 0 if there are none."""
        bound = 0.0
        for number, name in enumerate(self.plan.reference_ids):
            rows = self.plan.position[self.plan.served & (self.plan.reference == number)]
            if self._by_id[name].depth[rows].any():
                bound = max(bound, self._by_id[name].kl_bound)
        return bound

    def depths(self, recomputed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """The depth of each row [n]: how many approximate reuses led to it. ``recomputed`` rows are fresh.

        A row that is computed after an approximate row has read it. So the depth never falls along the prompt.
        """
        plan = self.plan
        depth = np.zeros(len(plan), np.uint8)
        for number, name in enumerate(plan.reference_ids):
            stored = self._by_id[name].depth
            prefix = (plan.source == Source.PREFIX) & (plan.reference == number)
            depth[prefix] = stored[plan.position[prefix]]
            approximate = plan.served & ~prefix & ~recomputed & (plan.reference == number)
            depth[approximate] = stored[plan.position[approximate]] + 1
        return np.maximum.accumulate(depth)

    @cached_property
    def _by_id(self) -> dict[str, View]:
        return {view.id: view for view in self.entries}


def find(pool: ReferencePool, query: Query, goal: Goal, table: TokenTable, embed: Embed, facts: FactTokens) -> Lookup:
    """Look up a prompt in one namespace and plan its reuse. The last token is never part of the prefix.

    Args:
        query: the prompt.
        goal: the call's goal, not ``off``.
        table: the model's token embeddings.
        embed: embeds the prompt.
        facts: knows which tokens are parts of numbers and names.
    """
    started = time.perf_counter()
    tokens, policy = query.tokens, goal.policy
    prefix = query.prefix_in(pool, goal)
    grams: NDArray[np.uint64] | None = None
    similarity = None
    choice = Choice(prefix, [prefix[0]] if prefix else [], [])
    if goal.searches:
        nearest_alone = one_partner(goal)
        count = 0 if nearest_alone else policy.max_references
        candidates = search(pool, query, embed, prefix_length=prefix[1] if prefix else 0, count=count)
        similarity = candidates.similarity
        if nearest_alone:
            choice = choose_nearest(tokens, prefix, candidates, goal)
        else:
            grams = kgram_hashes(tokens, policy.min_run)
            choice = choose(tokens, grams, prefix, candidates, goal)
        found = [*candidates.sharing, *(entry for entry, _ in candidates.similar)]
    else:
        found = sharing_most(pool, query)
    around = nearby(pool, query, [*choice.entries, *found])
    looked_up = time.perf_counter()
    views = [View(entry, usable_rows(entry, goal)) for entry in choice.entries]
    plan = build_plan(
        tokens,
        views,
        policy,
        table,
        prefix=(choice.prefix[0].id, choice.prefix[1]) if choice.prefix else None,
        fuzzy=[entry.id for entry in choice.partners],
        similarity=similarity or 0.0,
        grams=grams,
    )
    plan = replace(plan, stale=facts.changed(plan, tokens, views, policy.halo))
    return Lookup(
        plan,
        views,
        similarity,
        lookup_ms=1e3 * (looked_up - started),
        match_ms=1e3 * (time.perf_counter() - looked_up),
        blocked_coverage=choice.blocked,
        nearby=around,
    )
