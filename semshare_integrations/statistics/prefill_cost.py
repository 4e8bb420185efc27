"""An estimate of the time of a full prefill, fitted to the full prefills of the same run.

The time of attention grows with the square of the prompt's length; all other time grows with the length.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semshare_core import ReuseReport
from semshare_core.budget.cost import non_negative_fit


@dataclass(frozen=True)
class PrefillCost:
    """``per_token * n + per_square * n**2`` milliseconds for a full prefill of n tokens."""

    per_token: float
    per_square: float

    @classmethod
    def fit(cls, reports: Sequence[ReuseReport]) -> PrefillCost | None:
        """Fit to the full prefills among ``reports``, all of one model. None if there is no full prefill.

        If all full prefills have the same length, the estimate is proportional to the length, and too small for longer
        prompts.
        """
        full = [report for report in reports if report.reused_tokens == 0 and report.prefill_ms > 0]
        if not full:
            return None
        n = np.array([report.prompt_tokens for report in full], float)
        terms = np.stack([n, n**2], axis=1)[:, : len(set(n))]
        weights = non_negative_fit(terms, np.array([report.prefill_ms for report in full])).tolist()
        return cls(*weights, *[0.0] * (2 - len(weights)))

    def milliseconds(self, prompt_tokens: int) -> float:
        """The time of a full prefill of ``prompt_tokens`` tokens."""
        return self.per_token * prompt_tokens + self.per_square * prompt_tokens**2

    def saved_ms(self, report: ReuseReport) -> float:
        """The time that reuse saved this call, less the time of the lookup. Negative if the lookup found nothing."""
        lookup = report.lookup_ms + report.match_ms
        if report.reused_tokens == 0:
            return -lookup
        return self.milliseconds(report.prompt_tokens) - report.prefill_ms - lookup
