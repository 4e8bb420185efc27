"""A reuse plan in numbers. The forecast of the divergence reads them before any row is computed."""

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
    "log of the account drawn on",
    "share served by approximate rows",
    "share of that context, of rows in wording that repeats, unless computed in any case",
    "log of the share of the suffix chosen",
    "share of the suffix's context that reused rows have not read, or read elsewhere",
)
"""The names of the entries of :meth:`PlanFeatures.vector`."""

_ACCOUNT_FLOOR = 3e-3  # nats: differences between smaller accounts do not matter
_LEAST_CHOSEN = 0.02  # of the prompt, or of the suffix: keeps the logarithm finite if no row is chosen


@dataclass(frozen=True)
class PlanFeatures:
    """Numbers of tokens in a reuse plan. Example: a prompt of 1,000 tokens with a prefix of 600 has a suffix of 400.

    Attributes:
        tokens: the whole prompt.
        suffix: tokens after the prefix. All following attributes count tokens of the suffix.
        must: tokens that are computed in any case.
        worth: tokens that the selection finds worth computing by the plan alone, ``must`` included.
        moved: tokens before the question in an identical run at another place; ``fuzzy``, ``new``: likewise.
        runs: number of stretches of changed tokens.
        seams: number of places where the text continues but its source does not.
        question: tokens of the question.
        references: number of prompts that serve rows.
        similarity: of the nearest prompt, in [0, 1].
        mismatch: sum of the moved rows' context changes. A row whose whole context has changed adds 1.
        begins: sum of 1 / place in the run over the moved rows. A run of three tokens adds 1 + 1/2 + 1/3. Both sums are
            explained in ``semshare_core.match.context``.
        approximate: tokens of the whole prompt that approximate rows serve.
        inherited: in nats, the mean over the prompt's tokens of the account of the approximate row that serves them; 0
            for lossless rows and new tokens.
        kept: in nats, the largest account of the approximate rows that serve tokens which need not be computed.
        repeated: the part of ``mismatch`` that is of rows in wording that stands in the prompt several times
            (``semshare_core.match.repetition``), and that are not computed in any case. Where such wording only shifts,
            as behind a new date, it adds nothing.
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
    approximate: int = 0
    inherited: float = 0.0
    repeated: float = 0.0
    kept: float = 0.0

    @classmethod
    def of(cls, plan: ReusePlan, needs: Needs, fresh_from: int) -> PlanFeatures:
        """The features of a plan whose question begins at the token ``fresh_from``."""
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
            approximate=int(plan.approximate.sum()),
            inherited=0.0 if plan.account is None else float(plan.account.mean()),
            kept=0.0 if plan.account is None else float(plan.account[~needs.must].max(initial=0.0)),
            repeated=0.0 if plan.repeated is None else float(context[moved & plan.repeated & ~needs.must].sum()),
        )

    @property
    def free(self) -> int:
        """Tokens before the question that may be reused or computed."""
        return self.moved + self.fuzzy + self.new

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the prompt that must not exceed the measured ones by much, or it is another kind of prompt."""
        return {"served fuzzily": self.fuzzy / self.tokens, "new": self.new / self.tokens}

    def with_kept(self, account: float) -> float:
        """The account of all the call's rows if those that it computed or moved have ``account``, in nats."""
        return max(account, self.kept)

    def computed(self, ratio: float) -> int:
        """The number of tokens computed at a recompute ratio: at least ``must``, at most ``suffix``."""
        return max(self.must, min(self.suffix, round(ratio * self.tokens)))

    def vector(self, ratio: float) -> NDArray[np.float64]:
        """Float64 [len(FEATURES)] at a recompute ratio."""
        n, rows = self.tokens, self.computed(ratio)
        suffix = max(self.suffix, 1)  # behind a long prefix, shares of the prompt say little of what is behind it
        return np.array(
            [
                1.0,
                np.log(rows - self.must + _LEAST_CHOSEN * n),
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
                np.log1p(self.inherited / _ACCOUNT_FLOOR),
                self.approximate / n,
                self.repeated / n,
                np.log((rows - self.must) / suffix + _LEAST_CHOSEN),
                self.mismatch / suffix,
            ]
        )


def feature_matrix(plans: Sequence[PlanFeatures], ratios: Sequence[float]) -> NDArray[np.float64]:
    """Float64 [plans, ratios, len(FEATURES)]."""
    return np.stack([[features.vector(ratio) for ratio in ratios] for features in plans])
