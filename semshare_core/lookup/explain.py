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
from semshare_core.report.reasons import Reason, ReasonText


def explain(
    decision: Decision, lookup: Lookup, requested: Goal, goal: Goal, pool: ReferencePool, query: Query
) -> ReasonText:
    """The reason of a request that was looked up.

    Args:
        decision: the governor's; without a reason where nothing had to be decided.
        requested: the goal that the caller requested; ``goal``: the one that serves.
        query: what was looked up in ``pool``.
    """
    if not lookup.plan.served.any():
        reason = _nothing_found(goal, pool, query)
    elif goal.mode is Mode.LOSSLESS:
        reason = Reason.LOSSLESS_PREFIX.text(prefix=lookup.plan.prefix_tokens, tokens=len(lookup.plan))
    else:
        reason = decision.reason
    if requested.level != goal.level:
        return Reason.STRICTER_LEVEL.text(level=requested.level, served=goal.level, rest=reason)
    return reason


def _nothing_found(goal: Goal, pool: ReferencePool, query: Query) -> ReasonText:
    tokens, config = len(query.tokens), pool.config
    if tokens < config.min_tokens:
        return Reason.TOO_SHORT.text(tokens=tokens, least=config.min_tokens)
    if not pool.holds(query.namespace, weights=query.weights):
        others = pool.holds(query.namespace)
        return (Reason.OTHER_WEIGHTS if others else Reason.EMPTY_POOL).text()
    if goal.mode is not Mode.LOSSLESS:
        return Reason.NOTHING_TO_REUSE.text()
    if not whole_blocks(tokens, query.block):
        return Reason.NO_WHOLE_BLOCK.text(block=query.block, tokens=tokens)
    if pool.beginning_alike(query.namespace, query.tokens, 1, weights=query.weights):
        return Reason.NO_LOSSLESS_ROWS.text()
    return Reason.NO_COMMON_BEGIN.text(least=config.block_tokens)
