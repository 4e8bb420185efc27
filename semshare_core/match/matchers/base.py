"""Fuzzy matching: which row of which reference stands in for a token that has no identical run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from semshare_core.config import ReusePolicy
from semshare_core.match.token_table import TokenTable
from semshare_core.tokens import Positions, Tokens


@dataclass(frozen=True)
class Candidate:
    """A reference that may serve fuzzy tokens.

    Attributes:
        tokens: int64 [m], its text.
        anchors: int64 [n], for each target token the position in ``tokens`` that serves it already; -1: it does not.
            Example: the target's tokens 5 to 9 are its tokens 40 to 44, so ``anchors[5:10]`` is 40 to 44.
    """

    tokens: Tokens
    anchors: Positions


@dataclass(frozen=True)
class PlanRows:
    """What serves the tokens asked for, one element for each; both are -1 where none does.

    Attributes:
        candidate: index into the candidates.
        position: position in that candidate.
    """

    candidate: Positions
    position: Positions

    @classmethod
    def none(cls, count: int) -> PlanRows:
        """Nothing serves any of ``count`` tokens."""
        return cls(np.full(count, -1, np.int64), np.full(count, -1, np.int64))


@dataclass(frozen=True)
class Matcher(ABC):
    """Finds rows for the tokens that neither the prefix nor an identical run serves.

    Attributes:
        table: the model's token embeddings.
        max_partners: so many references, at most, may serve fuzzy tokens; None: as many as may serve at all. With 1 it
            is the most similar prompt, and nothing is looked for besides.
        after_runs: identical runs serve first, and the matcher gets the rest. False: it gets all behind the prefix.
    """

    table: TokenTable

    max_partners: ClassVar[int | None] = None
    after_runs: ClassVar[bool] = True

    @classmethod
    def of(cls, policy: ReusePolicy, table: TokenTable) -> Matcher:
        """The matcher with the settings that ``policy`` has for it."""
        return cls(table)

    @abstractmethod
    def match(self, target: Tokens, wanted: Positions, candidates: Sequence[Candidate]) -> PlanRows:
        """Find a row for each token that is ``wanted``.

        Args:
            target: int64 [n], the prompt.
            wanted: int64 [k], ascending positions in ``target``, at least one.
            candidates: at least one, the best first.
        """
