"""Choice: which candidates serve the prompt, and which of them may serve its fuzzy tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

from semshare_core.budget.goal import Goal
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
        blocked: the coverage lost to rows that may not serve (:class:`semshare_core.match.coverage.Coverage`).
    """

    prefix: Prefix | None
    entries: list[Entry]
    partners: list[Entry]
    blocked: float = 0.0


def one_partner(goal: Goal) -> bool:
    """Whether the matcher takes only the most similar prompt, as in the paper."""
    return bool(MATCHERS.get(goal.policy.matching).max_partners == 1)


def choose(tokens: Tokens, grams: NDArray, prefix: Prefix | None, candidates: Candidates, goal: Goal) -> Choice:
    """Choose by coverage: each chosen entry has identical runs that the entries before it lack.

    Args:
        tokens: int64 [n], the prompt.
        grams: hashes of its k-grams.
        prefix: the longest usable prefix.
        candidates: the pool's other entries for the prompt.
    """
    policy = goal.policy
    start = prefix[1] if prefix else 0
    nearest = [entry for entry, _ in candidates.similar]
    by_id = {entry.id: entry for entry in [*([prefix[0]] if prefix else []), *candidates.sharing, *nearest]}
    ordered = [by_id[name] for name in sorted(by_id)]
    usable = [usable_rows(entry, goal) for entry in ordered]
    coverage = cover(grams[start:], [entry.tokens for entry in ordered], usable, policy.min_run, policy.max_references)
    scored = [ordered[number] for number in coverage.chosen]
    prefix = _cheapest_prefix(prefix, scored, tokens, goal)
    chosen = {prefix[0].id: prefix[0]} if prefix else {}
    for entry in scored:
        if len(chosen) < policy.max_references:
            chosen[entry.id] = entry
    close = _close(candidates, goal)
    partners = [
        entry
        for entry in scored or nearest[:1]
        if (entry.id in chosen or len(chosen) < policy.max_references) and entry.id in close
    ]
    chosen |= {entry.id: entry for entry in partners}
    return Choice(prefix, list(chosen.values()), partners, coverage.blocked)


def choose_nearest(tokens: Tokens, prefix: Prefix | None, candidates: Candidates, goal: Goal) -> Choice:
    """Choose the most similar entry (SemShareKV, arXiv 2509.24832: one reference for each prompt).

    If only one reference may serve, it serves the prefix, too.
    """
    policy = goal.policy
    room = policy.max_references - (prefix is not None)
    close = _close(candidates, goal)
    for entry, _ in candidates.similar:
        has_prefix = prefix is not None and entry.id == prefix[0].id
        if entry.id in close and (has_prefix or room > 0 or policy.max_references == 1):
            break
    else:
        return Choice(prefix, [prefix[0]] if prefix else [], [])
    if policy.max_references == 1:
        length = entry.usable_prefix(tokens[:-1], policy.max_depth, goal.bound) if prefix else 0
        return Choice((entry, length) if length else None, [entry], [entry])
    return Choice(prefix, [prefix[0], entry] if prefix and not has_prefix else [entry], [entry])


def usable_rows(entry: Entry, goal: Goal) -> int:
    """How many leading rows of an entry may serve as approximate rows. Their depth grows by one."""
    return entry.usable(goal.policy.max_depth - 1, goal.bound) if goal.approximates else 0


def _close(candidates: Candidates, goal: Goal) -> set[str]:
    """The entries that are similar enough to serve fuzzy tokens."""
    least = goal.policy.min_similarity
    return {entry.id for entry, similarity in candidates.similar if similarity >= least and usable_rows(entry, goal)}


def _cheapest_prefix(prefix: Prefix | None, scored: Sequence[Entry], tokens: Tokens, goal: Goal) -> Prefix | None:
    """The prefix of a chosen entry, if another entry's prefix would take a place for a few tokens more."""
    policy = goal.policy
    if prefix is None or len(scored) < policy.max_references or prefix[0] in scored:
        return prefix
    lengths = [entry.usable_prefix(tokens[:-1], policy.max_depth, goal.bound) for entry in scored]
    longest = max(lengths)
    return (scored[lengths.index(longest)], longest) if longest > prefix[1] - policy.min_run else prefix
