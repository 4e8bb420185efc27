"""The forecast's usual error, by the length of the prompt and by its rows. Margins are multiples of it.

Forecasts of short prompts err more, unless they draw on approximate rows: there the errors of all earlier calls count,
and those of long chains are no smaller. With one error for all, long prompts would compute more than they need
(locally weighted conformal inference, Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, arXiv 1604.04173, section 5.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_LEAST = 0.15  # added to each error of the log KL, so that the logarithm of an error of 0 is finite
_ENOUGH = 20  # calls, for a line of their own


class Spread(BaseModel):
    """The error of the log KL is about ``exp(level + slope * log(tokens))``.

    Lengths outside the fitted range are clipped to it.

    Attributes:
        least: the shortest fitted prompt, in tokens.
        most: the longest one.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: float
    slope: float
    least: float
    most: float

    @classmethod
    def fit(cls, tokens: NDArray[np.float64], errors: NDArray[np.float64]) -> Spread:
        """Fit to ``tokens`` [prompts] and ``errors`` [prompts, ratios]; NaN means no error."""
        size = np.nanmean(np.log(np.abs(errors) + _LEAST), axis=1)
        least, most = float(tokens.min()), float(tokens.max())
        slope, level = np.polyfit(np.log(tokens), size, 1) if least < most else (0.0, size.mean())
        return cls(level=float(level), slope=float(slope), least=least, most=most)

    def of(self, tokens: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """The usual error [...] for ``tokens`` [...]."""
        within = np.clip(tokens, self.least, self.most)
        return np.asarray(np.exp(self.level + self.slope * np.log(within)))


class UsualError(BaseModel):
    """The usual errors of calls that draw on lossless rows alone, and of those that draw on approximate ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lossless: Spread
    approximate: Spread

    @classmethod
    def fit(
        cls, tokens: NDArray[np.float64], errors: NDArray[np.float64], approximate: NDArray[np.bool_]
    ) -> UsualError:
        """Fit to ``tokens`` [prompts], ``errors`` [prompts, ratios] and ``approximate`` [prompts].

        Where there are few calls of a kind, it has the line of all.
        """
        whole = Spread.fit(tokens, errors)
        lines = [
            Spread.fit(tokens[kind], errors[kind]) if kind.sum() >= _ENOUGH else whole
            for kind in (~approximate, approximate)
        ]
        return cls(lossless=lines[0], approximate=lines[1])

    def of(self, tokens: NDArray[np.float64] | float, approximate: NDArray[np.bool_] | bool) -> NDArray[np.float64]:
        """The usual error [...] for ``tokens`` [...] and ``approximate`` [...]."""
        return np.where(approximate, self.approximate.of(tokens), self.lossless.of(tokens))
