"""The forecast's usual error, by the length of the prompt. Margins are multiples of it.

Forecasts of short prompts err more. With one error for all lengths, long prompts would compute more than they need
(locally weighted conformal inference, Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, arXiv 1604.04173, section 5.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_LEAST = 0.15  # added to each error of the log KL, so that the logarithm of an error of 0 is finite


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
