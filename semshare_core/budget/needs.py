"""What a plan needs computed, before anything is known of the model's answer to it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.context import misaligned
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Selection


@dataclass(frozen=True)
class Needs:
    """Tokens of a prompt by what is known of them from the plan, bool [n] each.

    Attributes:
        suffix: tokens behind the prefix. Only these may be computed.
        must: computed whatever the budget: new tokens, the question, facts that differ, misaligned tokens, and a token
            that was first in the prompt or in its reference, but not in both.
        worth: ``must``, and the tokens that the selection finds worth computing by the plan alone.
    """

    suffix: NDArray[np.bool_]
    must: NDArray[np.bool_]
    worth: NDArray[np.bool_]

    @classmethod
    def of(cls, plan: ReusePlan, selection: Selection, fresh_from: int) -> Needs:
        """``fresh_from``: the question's first token."""
        suffix = plan.source != Source.PREFIX
        must = suffix & ((plan.source == Source.NEW) | (np.arange(len(plan)) >= fresh_from))
        if plan.stale is not None and selection.computes_stale:
            must |= suffix & (plan.stale | misaligned(plan))
        # the first token is the attention sink of every head: no other row can stand in for it, nor it for another
        must |= suffix & ((plan.position == 0) != (np.arange(len(plan)) == 0))
        return cls(suffix, must, must | (suffix & selection.structural(plan)))

    def but_last(self) -> Needs:
        """Without the last token, whose rows belong to the first decoding step."""
        rows = but_last(len(self.suffix))
        return Needs(self.suffix & rows, self.must & rows, self.worth & rows)


def but_last(n: int) -> NDArray[np.bool_]:
    """The rows a prefill computes: the last token belongs to the first decoding step."""
    rows = np.ones(n, bool)
    rows[-1] = False
    return rows
