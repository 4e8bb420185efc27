"""The lookup: search the pool, choose references, match tokens."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.account import Limits
from semshare_core.budget.goal import Goal
from semshare_core.embed.encoder import Embed
from semshare_core.lookup.choice import Choice, choose, choose_nearest, one_partner
from semshare_core.lookup.nearby import nearby
from semshare_core.lookup.search import Query, search
from semshare_core.match.facts import FactTokens
from semshare_core.match.matcher import build_plan
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.match.repetition import repeated
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
    """

    plan: ReusePlan
    entries: list[View]
    similarity: float | None
    lookup_ms: float
    match_ms: float
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

    def approximate(self, recomputed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Bool [n]: the rows that are not a full prefill's, if ``recomputed`` [n] are computed afresh.

        A row that is computed after an approximate row has read it. So all rows behind the first one are approximate.
        """
        plan = self.plan
        prefix = plan.source == Source.PREFIX
        rows = (prefix & plan.approximate) | (plan.served & ~prefix & ~recomputed)
        return np.logical_or.accumulate(rows)

    def repairable(self) -> Lookup:
        """The same rows, but those of the prefix from the first approximate one on may be recomputed."""
        plan = self.plan
        source = np.where((plan.source == Source.PREFIX) & plan.approximate, np.int8(Source.MOVED), plan.source)
        return replace(self, plan=replace(plan, source=source))

    @cached_property
    def _by_id(self) -> dict[str, View]:
        return {view.id: view for view in self.entries}


def find(
    pool: ReferencePool,
    query: Query,
    goal: Goal,
    table: TokenTable,
    embed: Embed,
    facts: FactTokens,
    limits: Limits | None = None,
) -> Lookup:
    """Look up a prompt in one namespace and plan its reuse. The last token is never part of the prefix.

    Args:
        query: the prompt.
        goal: the call's goal, not ``off``.
        table: the model's token embeddings.
        embed: embeds the prompt.
        facts: knows which tokens are parts of numbers and names.
        limits: which approximate rows may serve; default: those of the goal.
    """
    started = time.perf_counter()
    tokens, policy, limits = query.tokens, goal.policy, limits or Limits.of(goal)
    prefix = query.prefix_in(pool, goal, limits.prefix)
    grams: NDArray[np.uint64] | None = None
    similarity = candidates = None
    choice = Choice(prefix, [prefix[0]] if prefix else [], [])
    if goal.approximates:
        nearest_alone = one_partner(goal)
        count = 0 if nearest_alone else policy.max_references
        candidates = search(pool, query, embed, prefix_length=prefix[1] if prefix else 0, count=count)
        similarity = candidates.similarity
        if nearest_alone:
            choice = choose_nearest(tokens, prefix, candidates, policy, limits)
        else:
            grams = kgram_hashes(tokens, policy.min_run)
            choice = choose(tokens, grams, prefix, candidates, policy, limits)
    around = nearby(pool, query, choice.entries, candidates)
    looked_up = time.perf_counter()
    views = [View(entry, entry.usable(limits.moved)) for entry in choice.entries]
    plan = build_plan(
        tokens,
        views,
        policy,
        table,
        prefix=(choice.prefix[0].id, choice.prefix[1]) if choice.prefix else None,
        fuzzy=[entry.id for entry in choice.partners],
        similarity=similarity or 0.0,
        grams=grams,
        lossless={entry.id: entry.usable(0.0) for entry in choice.entries},
    )
    plan = replace(
        plan,
        stale=facts.changed(plan, tokens, views, policy.halo),
        account=_accounts(plan, views),
        repeated=repeated(tokens) if goal.approximates else None,
    )
    lookup_ms, match_ms = 1e3 * (looked_up - started), 1e3 * (time.perf_counter() - looked_up)
    return Lookup(plan, views, similarity, lookup_ms, match_ms, nearby=around)


def _accounts(plan: ReusePlan, views: Sequence[View]) -> NDArray[np.float64] | None:
    """For each token the account of the approximate row that serves it; 0 for other tokens."""
    account = np.zeros(len(plan))
    by_id = {view.id: view for view in views}
    for number, name in enumerate(plan.reference_ids):
        view = by_id[name]
        if view.account:
            rows = np.flatnonzero(plan.served & (plan.reference == number))
            account[rows[view.approximate[plan.position[rows]]]] = view.account
    return account if account.any() else None
