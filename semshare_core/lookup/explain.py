"""Why a prompt is served as it is: the sentence of its report.

The governor knows the plan, and says why it takes or refuses it (:mod:`semshare_core.budget.wording`). What it cannot
know is said here: why the search found nothing, and whether the canary made the level stricter.
"""

from __future__ import annotations

from semshare_core.budget.goal import Goal, Mode
from semshare_core.budget.governor import Decision
from semshare_core.lookup.find import Lookup
from semshare_core.lookup.search import Query
from semshare_core.model.attention.bit_blocks import whole_blocks
from semshare_core.pool.pool import ReferencePool
from semshare_core.report.reasons import NO_REASON, Reason, ReasonText
from semshare_core.tokens import common_prefix


def explain(
    decision: Decision, lookup: Lookup, requested: Goal, goal: Goal, pool: ReferencePool, query: Query
) -> ReasonText:
    """The reason of a request that was looked up.

    Args:
        decision: the governor's; without a reason where nothing had to be decided.
        requested: the goal that the caller requested; ``goal``: the one that serves.
        query: what was looked up in ``pool``.
    """
    if goal.mode is Mode.LOSSLESS:
        reason = _lossless(lookup.plan.prefix_tokens, pool, query)
    elif lookup.plan.served.any():
        reason = decision.reason
    else:
        reason = _empty(pool, query) or Reason.NOTHING_TO_REUSE.text()
    if requested.level != goal.level:
        return Reason.STRICTER_LEVEL.text(level=requested.level, served=goal.level, rest=reason)
    return reason


def _lossless(prefix: int, pool: ReferencePool, query: Query) -> ReasonText:
    """Why ``exact`` reuses ``prefix`` tokens."""
    tokens = len(query.tokens)
    alike = _longest_common_begin(pool, query)
    if prefix and prefix >= alike:
        return Reason.LOSSLESS_PREFIX.text(prefix=prefix, tokens=tokens)
    if not whole_blocks(tokens, query.block):
        return _empty(pool, query) or Reason.NO_WHOLE_BLOCK.text(block=query.block, tokens=tokens)
    if alike:
        return Reason.LOSSLESS_ROWS.text(alike=alike, prefix=prefix, tokens=tokens)
    return _empty(pool, query) or Reason.NO_COMMON_BEGIN.text(least=pool.config.block_tokens)


def _longest_common_begin(pool: ReferencePool, query: Query) -> int:
    """The length of the longest common beginning with a pooled prompt, of whatever rows; the last token never counts.

    0 if it is shorter than ``block_tokens``.
    """
    entries = pool.beginning_alike(query.namespace, query.tokens[:-1], 1, weights=query.weights)
    return max((common_prefix(entry.tokens, query.tokens[:-1]) for entry in entries), default=0)


def _empty(pool: ReferencePool, query: Query) -> ReasonText:
    """Why the pool can have nothing for the query; no reason if it could."""
    tokens, least = len(query.tokens), pool.config.min_tokens
    if tokens < least:
        return Reason.TOO_SHORT.text(tokens=tokens, least=least)
    if pool.holds(query.namespace, weights=query.weights):
        return NO_REASON
    return (Reason.OTHER_WEIGHTS if pool.holds(query.namespace) else Reason.EMPTY_POOL).text()
