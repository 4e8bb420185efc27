"""Choice: which of the entries that were found serve the prompt, and which may serve its fuzzy tokens."""

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
    """The entries that serve.

    Attributes:
        prefix: whose leading rows serve as prefix, and how many of them; None: nobody's.
        entries: all that may serve, the one of the prefix included.
        partners: those that may serve fuzzy tokens, best first.
        blocked: coverage lost to rows that may not serve (:class:`semshare_core.match.coverage.Coverage`).
    """

    prefix: Prefix | None
    entries: list[Entry]
    partners: list[Entry]
    blocked: float = 0.0


def one_partner(goal: Goal) -> bool:
    """Whether the matcher takes the most similar prompt alone, as in the paper, and not whoever covers most."""
    return bool(MATCHERS.get(goal.policy.matching).max_partners == 1)


def choose(tokens: Tokens, grams: NDArray, prefix: Prefix | None, found: Candidates, goal: Goal) -> Choice:
    """Choose by coverage: each entry for the identical runs that those before it lack.

    Args:
        tokens: int64 [n], the prompt.
        grams: hashes of its k-grams.
        prefix: the longest usable one.
        found: what the pool has besides.
    """
    policy = goal.policy
    behind = prefix[1] if prefix else 0
    nearest = [entry for entry, _ in found.similar]
    known = {entry.id: entry for entry in [*([prefix[0]] if prefix else []), *found.sharing, *nearest]}
    ordered = [known[name] for name in sorted(known)]
    usable = [usable_behind(entry, goal) for entry in ordered]
    coverage = cover(grams[behind:], [entry.tokens for entry in ordered], usable, policy.min_run, policy.max_references)
    scored = [ordered[number] for number in coverage.chosen]
    prefix = _sparing(prefix, scored, tokens, goal)
    chosen = {prefix[0].id: prefix[0]} if prefix else {}
    for entry in scored:
        if len(chosen) < policy.max_references:
            chosen[entry.id] = entry
    close = _close(found, goal)
    partners = [
        entry
        for entry in scored or nearest[:1]
        if (entry.id in chosen or len(chosen) < policy.max_references) and entry.id in close
    ]
    chosen |= {entry.id: entry for entry in partners}
    return Choice(prefix, list(chosen.values()), partners, coverage.blocked)


def choose_nearest(tokens: Tokens, prefix: Prefix | None, found: Candidates, goal: Goal) -> Choice:
    """Choose the most similar entry (SemShareKV, arXiv 2509.24832: one reference for each prompt).

    Where one reference may serve, it is the reference of the prefix, too.
    """
    policy = goal.policy
    room = policy.max_references - (prefix is not None)
    close = _close(found, goal)
    for entry, _ in found.similar:
        known = prefix is not None and entry.id == prefix[0].id
        if entry.id in close and (known or room > 0 or policy.max_references == 1):
            break
    else:
        return Choice(prefix, [prefix[0]] if prefix else [], [])
    if policy.max_references == 1:
        length = entry.usable_prefix(tokens[:-1], policy.max_depth, goal.bound) if prefix else 0
        return Choice((entry, length) if length else None, [entry], [entry])
    return Choice(prefix, [prefix[0], entry] if prefix and not known else [entry], [entry])


def usable_behind(entry: Entry, goal: Goal) -> int:
    """How many leading rows of an entry may serve as approximate rows: each gets one deeper by it."""
    return entry.usable(goal.policy.max_depth - 1, goal.bound) if goal.approximates else 0


def _close(found: Candidates, goal: Goal) -> set[str]:
    """The entries similar enough to serve fuzzy tokens."""
    return {
        entry.id for entry, value in found.similar if value >= goal.policy.min_similarity and usable_behind(entry, goal)
    }


def _sparing(prefix: Prefix | None, scored: Sequence[Entry], tokens: Tokens, goal: Goal) -> Prefix | None:
    """The prefix out of a reference that serves anyway, where another would cost a place for a handful of tokens."""
    policy = goal.policy
    if prefix is None or len(scored) < policy.max_references or prefix[0] in scored:
        return prefix
    lengths = [entry.usable_prefix(tokens[:-1], policy.max_depth, goal.bound) for entry in scored]
    longest = max(lengths)
    return (scored[lengths.index(longest)], longest) if longest > prefix[1] - policy.min_run else prefix
