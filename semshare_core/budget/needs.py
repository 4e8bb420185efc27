"""The tokens that a plan needs computed, known before the model computes anything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.match.context import misaligned
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select import Selection


@dataclass(frozen=True)
class Needs:
    """Sets of prompt tokens, each bool [n].

    Attributes:
        suffix: tokens after the prefix. Only these may be computed.
        must: tokens that are computed whatever the budget: new tokens, the question, the begin of the last answer,
            facts that differ, misaligned tokens, and a token that comes first in the prompt or in its reference, but
            not in both.
        worth: ``must``, and the tokens that the selection finds worth computing by the plan alone.
    """

    suffix: NDArray[np.bool_]
    must: NDArray[np.bool_]
    worth: NDArray[np.bool_]

    @classmethod
    def of(cls, plan: ReusePlan, selection: Selection, fresh_from: int, last_answer: range = range(0)) -> Needs:
        """The needs of a plan whose question begins at the token ``fresh_from``.

        ``last_answer`` are the tokens of :func:`semshare_core.prompt.last_answer.last_answer`.
        """
        suffix = plan.source != Source.PREFIX
        must = suffix & ((plan.source == Source.NEW) | (np.arange(len(plan)) >= fresh_from))
        if selection.computes_answer:
            must[last_answer] |= suffix[last_answer]
        if plan.stale is not None and selection.computes_stale:
            must |= suffix & (plan.stale | misaligned(plan))
        # the first token is every head's attention sink: it cannot replace another row, and no row can replace it
        must |= suffix & ((plan.position == 0) != (np.arange(len(plan)) == 0))
        return cls(suffix, must, must | (suffix & selection.structural(plan)))

    def but_last(self) -> Needs:
        """The same sets without the last token, which the first decoding step computes."""
        rows = but_last(len(self.suffix))
        return Needs(self.suffix & rows, self.must & rows, self.worth & rows)


def but_last(n: int) -> NDArray[np.bool_]:
    """All rows but the last, which the first decoding step computes."""
    rows = np.ones(n, bool)
    rows[-1] = False
    return rows
