"""What is known of a prompt before anything of it is computed, as numbers from which its divergence is forecast."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from semshare_core.budget.needs import Needs
from semshare_core.match.context import context_mismatch
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.select.base import changed

FEATURES = (
    "bias",
    "log of the rows chosen",
    "share computed",
    "share worth computing but not computed",
    "share reused from identical runs",
    "share new",
    "root of the share of changed runs",
    "share of the question",
    "references drawn on",
    "dissimilarity of the nearest reference",
    "share computed in any case",
    "share of that which is neither new nor the question",
    "share of the context that reused rows have not read, or read elsewhere",
    "share of the begins of runs",
)
"""What :meth:`PlanFeatures.vector` holds, in order."""

_CHOSEN_LEAST = 0.02  # of the prompt: where no row is chosen beyond those computed in any case, the logarithm is finite


@dataclass(frozen=True)
class PlanFeatures:
    """A plan in numbers. Tokens are those behind the prefix unless said otherwise.

    Attributes:
        tokens: of the whole prompt.
        suffix: tokens behind the prefix.
        must: those that are computed in any case.
        worth: those that the strategy finds worth computing by the plan alone, ``must`` included.
        moved: served by identical runs at another place, before the question; ``fuzzy``, ``new`` likewise.
        runs: stretches of changed tokens.
        seams: places where a text begins that stood elsewhere.
        question: tokens of the question.
        references: prompts drawn on.
        similarity: of the nearest prompt, in [0, 1].
        mismatch: sum over the identical runs before the question of how far the context of each row has changed;
            ``begins``: of one over each row's place in its run (``semshare_core.match.context``).
    """

    tokens: int
    suffix: int
    must: int
    worth: int
    moved: int
    fuzzy: int
    new: int
    runs: int
    seams: int
    question: int
    references: int
    similarity: float
    mismatch: float
    begins: float

    @classmethod
    def of(cls, plan: ReusePlan, needs: Needs, fresh_from: int) -> PlanFeatures:
        """``fresh_from``: the question's first token."""
        n = len(plan)
        free = needs.suffix & (np.arange(n) < fresh_from)
        altered = changed(plan) & free
        moved = free & (plan.source == Source.MOVED)
        context, shallow = context_mismatch(plan)
        return cls(
            tokens=n,
            suffix=int(needs.suffix.sum()),
            must=int(needs.must.sum()),
            worth=int(needs.worth.sum()),
            moved=int(moved.sum()),
            fuzzy=int((free & (plan.source == Source.FUZZY)).sum()),
            new=int((free & (plan.source == Source.NEW)).sum()),
            runs=int((altered & ~np.concatenate(([False], altered[:-1]))).sum()),
            seams=int((plan.seams() & free).sum()),
            question=n - fresh_from,
            references=len(plan.drawn_on),
            similarity=float(plan.similarity),
            mismatch=float(context[moved].sum()),
            begins=float(shallow[moved].sum()),
        )

    @property
    def free(self) -> int:
        """Tokens before the question that may be reused or computed."""
        return self.moved + self.fuzzy + self.new

    @property
    def shares(self) -> dict[str, float]:
        """Parts of the prompt, by name, that make it another kind of prompt where they exceed all that was measured."""
        return {"served fuzzily": self.fuzzy / self.tokens, "new": self.new / self.tokens}

    def computed(self, ratio: float) -> int:
        """Tokens computed under a recompute ratio: what must be, however small the ratio."""
        return max(self.must, min(self.suffix, round(ratio * self.tokens)))

    def vector(self, ratio: float) -> NDArray[np.float64]:
        """Float64 [len(FEATURES)] under a recompute ratio."""
        n, rows = self.tokens, self.computed(ratio)
        return np.array(
            [
                1.0,
                np.log(rows - self.must + _CHOSEN_LEAST * n),
                rows / n,
                max(0, self.worth - rows) / n,
                self.moved / n,
                self.new / n,
                np.sqrt(self.runs / n),
                self.question / n,
                np.log(max(self.references, 1)),
                1.0 - self.similarity,
                self.must / n,
                max(0, self.must - self.new - self.question) / n,
                self.mismatch / n,
                self.begins / n,
            ]
        )


def feature_matrix(plans: Sequence[PlanFeatures], ratios: Sequence[float]) -> NDArray[np.float64]:
    """Float64 [plans, ratios, len(FEATURES)]."""
    return np.stack([[features.vector(ratio) for ratio in ratios] for features in plans])
