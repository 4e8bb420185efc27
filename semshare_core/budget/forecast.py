"""A forecast of the divergence: Gaussian process regression of log KL on what is known beforehand (Rasmussen and
Williams, Gaussian Processes for Machine Learning, 2006, chapter 2).

Two covariances add up: what nearby plans have in common, and what all ratios of one prompt have in common that
nothing known beforehand explains, some answers being more easily moved than others. The forecast need not be good: how
far it errs is part of what calibration measures. The better it is, the less is computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.product import product

KL_FLOOR = 3e-3
"""Added to a KL before its logarithm is taken: smaller differences are no differences."""

# chosen by cross-validation on SmolLM2-135M-Instruct (lengths from 2 to 4 forecast equally well);
# lengths are in spreads of the features, the rest in squares of the log KL
_LENGTH = 2.5
_SMOOTH, _LINEAR = 1.0, 0.3
_PROMPT, _NOISE = 0.8, 0.2


class Forecast:
    """Fitted to ``features`` [prompts, ratios, features], the first of which is constant, and ``kl`` [prompts, ratios],
    where that is not NaN.

    What lies outside the features' range when fitted is taken for its end, because a line that goes on for ever
    promises what nobody measured.

    Attributes:
        highest: [features], the ends of that range; ``lowest`` likewise.
    """

    def __init__(self, features: NDArray[np.float64], kl: NDArray[np.float64]) -> None:
        prompt, ratio = np.nonzero(~np.isnan(kl))
        known = features[prompt, ratio]
        self.lowest, self.highest = known.min(axis=0), known.max(axis=0)
        self._mean, self._spread = known.mean(axis=0), known.std(axis=0) + 1e-9
        self._known = self._scaled(known)
        target = log_kl(kl[prompt, ratio])
        self._level = float(target.mean())
        covariance = self._covariance(self._known) + _PROMPT * (prompt[:, None] == prompt)
        covariance[np.diag_indices(len(target))] += _NOISE
        self._weights = np.linalg.solve(covariance, target - self._level)

    def log_kl(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected log KL [...] of ``features`` [..., features]."""
        flat = self._scaled(features.reshape(-1, features.shape[-1]))
        found = self._level + product(self._covariance(flat), self._weights[:, None])
        return np.asarray(found.reshape(features.shape[:-1]))

    def _scaled(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        within = np.clip(features, self.lowest, self.highest)
        return np.asarray((within - self._mean) / self._spread)[:, 1:]

    def _covariance(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """With what is known: [len(scaled), known]."""
        inner = product(scaled, self._known.T)
        squares = (scaled**2).sum(axis=1)[:, None] + (self._known**2).sum(axis=1)
        near = np.exp(-np.maximum(squares - 2 * inner, 0.0) / (2 * _LENGTH**2))
        return np.asarray(_SMOOTH * near + _LINEAR * inner / scaled.shape[1])


def log_kl(kl: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The logarithm of a KL in nats, on the scale of the forecast."""
    return np.asarray(np.log(np.maximum(kl, 0.0) + KL_FLOOR))
