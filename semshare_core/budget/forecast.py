"""A forecast of the divergence: Gaussian process regression of log KL on plan features (Rasmussen and Williams,
Gaussian Processes for Machine Learning, 2006, chapter 2).

The covariance has two parts: what similar plans have in common, and what all ratios of one prompt have in common. The
features do not explain the second part: some answers move more easily than others. The forecast may be bad, because
calibration measures its errors. A better forecast makes levels compute less.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from semshare_core.product import product

KL_FLOOR = 3e-3
"""Added to a KL before its logarithm. Differences below it do not matter."""

# chosen by cross-validation on SmolLM2-135M-Instruct (lengths from 2 to 4 forecast equally well);
# the length is in standard deviations of the features, the others are variances of the log KL
_LENGTH = 2.5
_SMOOTH, _LINEAR = 1.0, 0.3
_PROMPT, _NOISE = 0.8, 0.2


class Forecast:
    """A fitted forecast. It clips features to the range it was fitted to, and so never extrapolates.

    Args:
        features: [prompts, ratios, features]. The first feature is constant.
        kl: [prompts, ratios]; NaN where a ratio was not measured.

    Attributes:
        lowest: [features], where the fitted range begins.
        highest: [features], where it ends.
    """

    def __init__(self, features: NDArray[np.float64], kl: NDArray[np.float64]) -> None:
        prompt, ratio = np.nonzero(~np.isnan(kl))
        measured = features[prompt, ratio]
        self.lowest, self.highest = measured.min(axis=0), measured.max(axis=0)
        self._mean, self._deviation = measured.mean(axis=0), measured.std(axis=0) + 1e-9
        self._fitted = self._scaled(measured)
        target = log_kl(kl[prompt, ratio])
        self._level = float(target.mean())
        covariance = self._covariance(self._fitted) + _PROMPT * (prompt[:, None] == prompt)
        covariance[np.diag_indices(len(target))] += _NOISE
        self._weights = np.linalg.solve(covariance, target - self._level)

    def log_kl(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected log KL [...] of ``features`` [..., features]."""
        flat = self._scaled(features.reshape(-1, features.shape[-1]))
        expected = self._level + product(self._covariance(flat), self._weights[:, None])
        return np.asarray(expected.reshape(features.shape[:-1]))

    def _scaled(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        within = np.clip(features, self.lowest, self.highest)
        return np.asarray((within - self._mean) / self._deviation)[:, 1:]

    def _covariance(self, scaled: NDArray[np.float64]) -> NDArray[np.float64]:
        """Covariance with the fitted features, [len(scaled), fitted]."""
        inner = product(scaled, self._fitted.T)
        squares = (scaled**2).sum(axis=1)[:, None] + (self._fitted**2).sum(axis=1)
        near = np.exp(-np.maximum(squares - 2 * inner, 0.0) / (2 * _LENGTH**2))
        return np.asarray(_SMOOTH * near + _LINEAR * inner / scaled.shape[1])


def log_kl(kl: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The logarithm of a KL in nats, on the scale of the forecast."""
    return np.asarray(np.log(np.maximum(kl, 0.0) + KL_FLOOR))
