"""Choice: which candidates serve the prompt, and which of them may serve its fuzzy tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from semshare_core.budget.account import Limits
from semshare_core.budget.goal import Goal
from semshare_core.config import ReusePolicy
from semshare_core.lookup.search import Candidates
from semshare_core.match.coverage import cover
from semshare_core.pool.entry import Entry
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Tokens

Prefix = tuple[Entry, int]


@dataclass(frozen=True)
class Choice:
    """The chosen entries.

    Attributes:
        prefix: the entry that serves the prefix, and the prefix's length; None: there is no prefix.
        entries: all chosen entries, with the prefix's.
        partners: the entries that may serve fuzzy tokens, the best first.
    """

    prefix: Prefix | None
    entries: list[Entry]
    partners: list[Entry]


def one_partner(goal: Goal) -> bool:
    """Whether the matcher takes only the most similar prompt, as in the paper."""
    return bool(MATCHERS.get(goal.policy.matching).max_partners == 1)


def choose(
    tokens: Tokens, grams: NDArray, prefix: Prefix | None, candidates: Candidates, policy: ReusePolicy, limits: Limits
) -> Choice:
    """Choose by coverage: each chosen entry has identical runs that the entries before it lack.

    Args:
        tokens: int64 [n], the prompt.
        grams: hashes of its k-grams.
        prefix: the longest usable prefix.
        candidates: the pool's other entries for the prompt.
    """
    start = prefix[1] if prefix else 0
    nearest = [entry for entry, _ in candidates.similar]
    by_id = {entry.id: entry for entry in [*([prefix[0]] if prefix else []), *candidates.sharing, *nearest]}
    ordered = [by_id[name] for name in sorted(by_id)]
    usable, lossless = ([entry.usable(most) for entry in ordered] for most in (limits.moved, 0.0))
    texts = [entry.tokens for entry in ordered]
    covering = cover(grams[start:], texts, usable, lossless, policy.min_run, policy.max_references)
    scored = [ordered[number] for number in covering]
    prefix = _cheapest_prefix(prefix, scored, tokens, policy, limits)
    chosen = {prefix[0].id: prefix[0]} if prefix else {}
    for entry in scored:
        if len(chosen) < policy.max_references:
            chosen[entry.id] = entry
    close = _close(candidates, policy, limits)
    partners = [
        entry
        for entry in scored or nearest[:1]
        if (entry.id in chosen or len(chosen) < policy.max_references) and entry.id in close
    ]
    chosen |= {entry.id: entry for entry in partners}
    return Choice(prefix, list(chosen.values()), partners)


def choose_nearest(
    tokens: Tokens, prefix: Prefix | None, candidates: Candidates, policy: ReusePolicy, limits: Limits
) -> Choice:
    """Choose the most similar entry (SemShareKV, arXiv 2509.24832: one reference for each prompt).

    If only one reference may serve, it serves the prefix, too.
    """
    room = policy.max_references - (prefix is not None)
    close = _close(candidates, policy, limits)
    for entry, _ in candidates.similar:
        has_prefix = prefix is not None and entry.id == prefix[0].id
        if entry.id in close and (has_prefix or room > 0 or policy.max_references == 1):
            break
    else:
        return Choice(prefix, [prefix[0]] if prefix else [], [])
    if policy.max_references == 1:
        length = entry.usable_prefix(tokens[:-1], limits.prefix) if prefix else 0
        return Choice((entry, length) if length else None, [entry], [entry])
    return Choice(prefix, [prefix[0], entry] if prefix and not has_prefix else [entry], [entry])


def _close(candidates: Candidates, policy: ReusePolicy, limits: Limits) -> set[str]:
    """The entries that are similar enough to serve fuzzy tokens."""
    least = policy.min_similarity
    return {entry.id for entry, similarity in candidates.similar if similarity >= least and entry.usable(limits.moved)}


def _cheapest_prefix(
    prefix: Prefix | None, scored: Sequence[Entry], tokens: Tokens, policy: ReusePolicy, limits: Limits
) -> Prefix | None:
    """The prefix of a chosen entry, if another entry's prefix would take a place for a few tokens more."""
    if prefix is None or len(scored) < policy.max_references or prefix[0] in scored:
        return prefix
    lengths = [entry.usable_prefix(tokens[:-1], limits.prefix) for entry in scored]
    longest = max(lengths)
    return (scored[lengths.index(longest)], longest) if longest > prefix[1] - policy.min_run else prefix
