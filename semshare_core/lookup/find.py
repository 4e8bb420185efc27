"""The lookup: search, choice and matching, one after the other."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.goal import Goal
from semshare_core.embed.encoder import Embed
from semshare_core.lookup.choice import Choice, choose, choose_nearest, one_partner, usable_behind
from semshare_core.lookup.search import Wanted, search
from semshare_core.match.facts import FactTokens
from semshare_core.match.matcher import build_plan
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.match.runs import kgram_hashes
from semshare_core.match.token_table import TokenTable
from semshare_core.pool.entry import View
from semshare_core.pool.pool import ReferencePool


@dataclass(frozen=True)
class Lookup:
    """A plan, the entries that it draws on, and what finding it cost.

    Attributes:
        similarity: of the nearest entry, in [0, 1]; None where no search was made or the pool was empty.
        blocked_coverage: coverage lost to rows that may not serve, as a share of the tokens behind the prefix: what the
            best prompt would cover with all of its rows, less what the best covers with the rows that may serve.
    """

    plan: ReusePlan
    entries: list[View]
    similarity: float | None
    lookup_ms: float
    match_ms: float
    blocked_coverage: float = 0.0

    @property
    def used(self) -> list[View]:
        """The entries that serve some token."""
        drawn_on = set(self.plan.drawn_on)
        return [view for view in self.entries if view.id in drawn_on]

    @property
    def steady(self) -> int:
        """Leading tokens whose prefix rows have the bits of any longer prompt's own pass."""
        known = {view.id: view.steady for view in self.entries}
        plan = self.plan
        prefix = plan.prefix_tokens
        steady = known[plan.reference_ids[plan.reference[0]]] if prefix else None
        return prefix if steady is None else min(prefix, steady)

    @property
    def kl_bound(self) -> float:
        """The laxest bound, in nats, that approximate rows which serve were made under; 0: there are none."""
        bound = 0.0
        by_id = {entry.id: entry for entry in self.entries}
        for number, name in enumerate(self.plan.reference_ids):
            rows = self.plan.position[self.plan.served & (self.plan.reference == number)]
            if by_id[name].depth[rows].any():
                bound = max(bound, by_id[name].kl_bound)
        return bound

    def depths(self, recomputed: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Approximate reuses behind each row [n], once the rows in ``recomputed`` were computed afresh.

        A row computed behind an approximate one has read it, so depth never falls along the prompt.
        """
        by_id = {entry.id: entry.depth for entry in self.entries}
        depth = np.zeros(len(self.plan), np.uint8)
        for number, name in enumerate(self.plan.reference_ids):
            prefix = (self.plan.source == Source.PREFIX) & (self.plan.reference == number)
            depth[prefix] = by_id[name][self.plan.position[prefix]]
            approximate = self.plan.served & ~prefix & ~recomputed & (self.plan.reference == number)
            depth[approximate] = by_id[name][self.plan.position[approximate]] + 1
        return np.maximum.accumulate(depth)


def find(pool: ReferencePool, wanted: Wanted, goal: Goal, table: TokenTable, embed: Embed, facts: FactTokens) -> Lookup:
    """Look up a prompt in one namespace and plan its reuse. The last token is never served as prefix.

    Args:
        wanted: the prompt, and which rows may serve it.
        goal: of the call; not ``off``.
        table: the model's token embeddings.
        embed: gives the prompt's embedding.
        facts: which tokens are parts of numbers and names.
    """
    started = time.perf_counter()
    tokens, policy = wanted.tokens, goal.policy
    prefix = wanted.prefix_in(pool, goal)
    grams: NDArray[np.uint64] | None = None
    similarity = None
    choice = Choice(prefix, [prefix[0]] if prefix else [], [])
    if goal.searches:
        nearest_alone = one_partner(goal)
        behind, count = prefix[1] if prefix else 0, 0 if nearest_alone else policy.max_references
        found = search(pool, wanted, embed, behind=behind, count=count)
        similarity = found.similarity
        if nearest_alone:
            choice = choose_nearest(tokens, prefix, found, goal)
        else:
            grams = kgram_hashes(tokens, policy.min_run)
            choice = choose(tokens, grams, prefix, found, goal)
    looked_up = time.perf_counter()
    views = [View(entry, usable_behind(entry, goal)) for entry in choice.entries]
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
    )
