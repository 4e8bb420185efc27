"""How far forecasts err, by the length of the prompt: margins are multiples of it, so that a long prompt, whose
divergence is an average over more, does not pay for the surprises of short ones (locally weighted conformal inference,
Lei, G'Sell, Rinaldo, Tibshirani and Wasserman, arXiv 1604.04173, section 5.2).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

_LEAST = 0.15  # of the log KL: an error that happens to be 0 does not make the logarithm infinite


class Spread(BaseModel):
    """The error of the log KL is about ``exp(level + slope * log(tokens))``.

    What lies outside the lengths it was fitted to is taken for their end, as the forecast takes its features.

    Attributes:
        least: tokens of the shortest prompt it was fitted to; ``most``: of the longest.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    level: float
    slope: float
    least: float
    most: float

    @classmethod
    def fit(cls, tokens: NDArray[np.float64], errors: NDArray[np.float64]) -> Spread:
        """From the prompts' ``tokens`` [prompts] and the forecasts' ``errors`` [prompts, ratios], NaN where none is."""
        size = np.nanmean(np.log(np.abs(errors) + _LEAST), axis=1)
        least, most = float(tokens.min()), float(tokens.max())
        slope, level = np.polyfit(np.log(tokens), size, 1) if least < most else (0.0, size.mean())
        return cls(level=float(level), slope=float(slope), least=least, most=most)

    def of(self, tokens: NDArray[np.float64] | float) -> NDArray[np.float64]:
        """[...] for ``tokens`` [...]."""
        within = np.clip(tokens, self.least, self.most)
        return np.asarray(np.exp(self.level + self.slope * np.log(within)))
