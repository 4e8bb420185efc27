"""From a prompt's tokens to a reuse plan: which pooled prompts can serve it, and how."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.levels import bound_of
from semshare_core.config import ReusePolicy
from semshare_core.embed.encoder import Embed
from semshare_core.match.facts import FactTokens
from semshare_core.match.matcher import build_plan
from semshare_core.match.plan import ReusePlan, Source, Tokens
from semshare_core.match.runs import kgram_hashes
from semshare_core.match.token_table import TokenTable
from semshare_core.model.attention.bit_blocks import whole_blocks
from semshare_core.pool.entry import Entry, View
from semshare_core.pool.pool import ReferencePool


@dataclass(frozen=True)
class Found:
    """A plan, the entries that it draws on, and what finding it cost.

    Attributes:
        embedding: float32 [m, dim] of the prompt, without rows where it could not be embedded; None where only the
            prefix was looked up.
        similarity: of the nearest entry, in [0, 1]; None where no search was made or the pool was empty.
        blocked_coverage: coverage lost to rows that may not serve, as a share of the tokens behind the prefix: what the
            best prompt would cover with all of its rows, less what the best covers with the rows that may serve.
    """

    plan: ReusePlan
    entries: list[View]
    embedding: NDArray[np.float32] | None
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


def searches(policy: ReusePolicy) -> bool:
    """Whether looking up asks what a prompt resembles, or for its prefix alone."""
    return policy.level not in ("off", "exact") and policy.max_depth > 0


def find(
    pool: ReferencePool,
    namespace: str,
    tokens: Tokens,
    policy: ReusePolicy,
    table: TokenTable,
    embed: Embed,
    facts: FactTokens,
    *,
    weights: str = "",
    block: int = 1,
) -> Found:
    """Look up ``tokens`` [n] in one namespace and plan their reuse. The last token is never served as prefix.

    Only what ``weights`` computed is found (:meth:`semshare_core.model.weights.Weights.identity`); of a lossless
    prefix only what does not stand in the last ``block`` of the prompt (``semshare_core.model.attention.bit_blocks``).
    """
    started = time.perf_counter()
    lossless = policy.level == "exact"
    bound = bound_of(policy)
    begin = tokens[: min(len(tokens) - 1, whole_blocks(len(tokens), block))] if lossless else tokens[:-1]
    prefix = pool.longest_prefix(namespace, begin, 0 if lossless else policy.max_depth, bound, weights=weights)
    chosen: dict[str, Entry] = {prefix[0].id: prefix[0]} if prefix else {}
    partners: list[Entry] = []  # who may serve fuzzy tokens, best first
    embedding, similarity, blocked_coverage = None, None, 0.0
    if searches(policy):
        embedding = embed(tokens)
        similar = pool.similar(namespace, embedding, weights=weights)
        similarity = similar[0][1] if similar else None
        nearest = [entry for entry, _ in similar]
        one_partner = policy.matching in ("lsh", "random")  # the paper's choice: the most similar prompt
        scored: list[Entry] = []
        if not one_partner:
            behind = tokens[prefix[1] if prefix else 0 :]
            sharing = pool.sharing(namespace, behind, policy.max_references, weights=weights)
            scored, blocked_coverage = _score(behind, [*chosen.values(), *sharing, *nearest], policy, bound)
            prefix = _sparing(prefix, scored, tokens, policy, bound)
            chosen = {prefix[0].id: prefix[0]} if prefix else {}
        for entry in scored:
            if len(chosen) < policy.max_references:
                chosen[entry.id] = entry
        close = {entry.id for entry, value in similar if value >= policy.min_similarity}
        alone = one_partner and policy.max_references == 1  # it is the reference then, of the prefix, too
        for entry in nearest if one_partner else (scored or nearest[:1]):
            allowed = alone or entry.id in chosen or len(chosen) < policy.max_references
            if allowed and entry.id in close and entry.usable(policy.max_depth - 1, bound):
                partners.append(entry)
                if one_partner:
                    break
        if partners and alone:
            chosen = {}
            length = partners[0].usable_prefix(tokens[:-1], policy.max_depth, bound) if prefix else 0
            prefix = (partners[0], length) if length else None
        chosen |= {entry.id: entry for entry in partners}
    looked_up = time.perf_counter()
    views = [View(entry, 0 if lossless else entry.usable(policy.max_depth - 1, bound)) for entry in chosen.values()]
    plan = build_plan(
        tokens,
        views,
        policy,
        table,
        prefix=(prefix[0].id, prefix[1]) if prefix else None,
        fuzzy=[entry.id for entry in partners],
        similarity=similarity or 0.0,
    )
    plan = replace(plan, stale=facts.changed(plan, tokens, views, policy.halo))
    matched = time.perf_counter()
    return Found(
        plan,
        views,
        embedding,
        similarity,
        lookup_ms=1e3 * (looked_up - started),
        match_ms=1e3 * (matched - looked_up),
        blocked_coverage=blocked_coverage,
    )


def _sparing(
    prefix: tuple[Entry, int] | None, scored: Sequence[Entry], tokens: Tokens, policy: ReusePolicy, bound: float
) -> tuple[Entry, int] | None:
    """The prefix out of a reference that serves anyway, where another would cost a place for a handful of tokens."""
    if prefix is None or len(scored) < policy.max_references or prefix[0] in scored:
        return prefix
    lengths = [entry.usable_prefix(tokens[:-1], policy.max_depth, bound) for entry in scored]
    longest = max(lengths)
    return (scored[lengths.index(longest)], longest) if longest > prefix[1] - policy.min_run else prefix


def _score(tokens: Tokens, candidates: Sequence[Entry], policy: ReusePolicy, bound: float) -> tuple[list[Entry], float]:
    """The candidates that would serve most of ``tokens``, each counted for what the ones before it leave.

    And how much larger a share of ``tokens`` the best single candidate holds if rows too deep to serve count.
    """
    k = policy.min_run
    wanted, counts = np.unique(kgram_hashes(tokens, k), return_counts=True)
    entries = sorted({entry.id: entry for entry in candidates}.values(), key=lambda entry: entry.id)
    if not entries or not wanted.size:
        return [], 0.0
    lengths = np.array([len(entry) for entry in entries])
    owner = np.repeat(np.arange(len(entries)), lengths)
    grams = kgram_hashes(np.concatenate([entry.tokens for entry in entries]), k)  # of all in one go
    place = np.minimum(np.searchsorted(wanted, grams), len(wanted) - 1)
    hit = (wanted[place] == grams) & (owner[: len(grams)] == owner[k - 1 :])  # those across two texts are nobody's
    ends = np.cumsum(lengths) - lengths + [entry.usable(policy.max_depth - 1, bound) for entry in entries]
    usable = hit & (np.arange(len(grams)) + k <= ends[owner[: len(grams)]])
    held, stand = (_by_entry(owner[: len(grams)], place, mask, len(entries), len(wanted)) for mask in (usable, hit))
    blocked_coverage = max(0.0, float((stand @ counts).max() - (held @ counts).max()) / int(counts.sum()))
    chosen: list[Entry] = []
    while len(chosen) < policy.max_references:
        gains = held @ counts
        best = int(gains.argmax())
        if gains[best] == 0:
            break
        chosen.append(entries[best])
        held &= ~held[best]
    return chosen, blocked_coverage


def _by_entry(
    owner: NDArray[np.int64], place: NDArray[np.int64], mask: NDArray[np.bool_], entries: int, grams: int
) -> NDArray[np.bool_]:
    """Which wanted grams each entry has, bool [entries, grams], of the occurrences in ``mask``."""
    held = np.zeros((entries, grams), bool)
    held[owner[mask], place[mask]] = True
    return held
