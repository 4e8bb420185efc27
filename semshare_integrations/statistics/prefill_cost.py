"""What a full prefill would have cost: an estimate, fitted to the full prefills of the same run.

Attention grows with the square of a prompt's length, everything else with the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semshare_core import ReuseReport
from semshare_core.budget.cost import non_negative_fit


@dataclass(frozen=True)
class PrefillCost:
    """``per_token * n + per_square * n**2`` milliseconds for a full prefill of n tokens. An estimate."""

    per_token: float
    per_square: float

    @classmethod
    def fit(cls, reports: Sequence[ReuseReport]) -> PrefillCost | None:
        """Least squares of the relative error over the calls that computed every row; None if there were none.

        Full prefills of one length alone tell nothing of the square: then the cost is proportional to the length, too
        little for longer prompts. Reports of several models must not be mixed.
        """
        full = [each for each in reports if each.reused_tokens == 0 and each.prefill_ms > 0]
        if not full:
            return None
        n = np.array([each.prompt_tokens for each in full], float)
        told = np.array([each.prefill_ms for each in full])
        lengths = 1 if len(set(n)) == 1 else 2
        terms = np.stack([n, n**2], axis=1)[:, :lengths]
        weights = non_negative_fit(terms, told).tolist()
        return cls(*weights) if lengths == 2 else cls(weights[0], 0.0)

    def milliseconds(self, prompt_tokens: int) -> float:
        """Of a full prefill of so many tokens, up to the first token of the answer."""
        return self.per_token * prompt_tokens + self.per_square * prompt_tokens**2

    def saved_ms(self, report: ReuseReport) -> float:
        """What reuse spared this call, less what looking for it took; negative where it found nothing."""
        looking = report.lookup_ms + report.match_ms
        if report.reused_tokens == 0:
            return -looking
        return self.milliseconds(report.prompt_tokens) - report.prefill_ms - looking
