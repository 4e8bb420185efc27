"""One fuzzy matcher per file; :func:`matcher_for` makes the one that a policy names."""

from semshare_core.config import ReusePolicy
from semshare_core.match.matchers.base import Candidate, Matcher, PlanRows
from semshare_core.match.matchers.ordered import OrderedMatcher
from semshare_core.match.matchers.runs_only import RunsOnly
from semshare_core.match.token_table import TokenTable
from semshare_core.slots import MATCHERS

__all__ = ["Candidate", "Matcher", "OrderedMatcher", "PlanRows", "RunsOnly", "matcher_for"]


def matcher_for(policy: ReusePolicy, table: TokenTable) -> Matcher:
    """The matcher that ``policy`` asks for, with its settings."""
    matcher: type[Matcher] = MATCHERS.get(policy.matching)
    return matcher.of(policy, table)
