"""No fuzzy matching: the prefix and identical runs serve, and whatever else there is stays new."""

from __future__ import annotations

from collections.abc import Sequence

from semshare_core.match.matchers.base import Candidate, Matcher, PlanRows
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Positions, Tokens


@MATCHERS.register("runs")
class RunsOnly(Matcher):
    """Serves nothing."""

    def match(self, target: Tokens, wanted: Positions, candidates: Sequence[Candidate]) -> PlanRows:
        return PlanRows.none(len(wanted))
