"""Match tokens at random: the ablation that shows what matching is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semshare_core.config import ReusePolicy
from semshare_core.match.matchers import Candidate, Matcher, PlanRows
from semshare_core.match.token_table import TokenTable
from semshare_core.slots import MATCHERS
from semshare_core.tokens import Positions, Tokens


@MATCHERS.register("random")
@dataclass(frozen=True)
class RandomMatcher(Matcher):
    """Any token of the most similar prompt for any token behind the prefix, fixed by ``seed``."""

    max_partners = 1
    after_runs = False
    seed: int = 0

    @classmethod
    def of(cls, policy: ReusePolicy, table: TokenTable) -> RandomMatcher:
        return cls(table, seed=policy.seed)

    def match(self, target: Tokens, wanted: Positions, candidates: Sequence[Candidate]) -> PlanRows:
        position = np.random.default_rng(self.seed).integers(0, len(candidates[0].tokens), len(wanted))
        return PlanRows(np.zeros(len(wanted), np.int64), position)
