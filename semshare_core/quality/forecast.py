"""A forecast of the divergence: ridge regression of log KL on what is known beforehand (Hoerl and Kennard, 1970).

It need not be good: how far it errs is part of what calibration measures. The better it is, the less is computed.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

KL_FLOOR = 1e-3
"""Added to a KL before its logarithm is taken: smaller differences are no differences."""

_PENALTY = 2.0


class Forecast(BaseModel):
    """Means, spreads and weights of the features, one of each per feature; the first feature is the constant.

    ``lowest`` and ``highest`` are the features' range when fitted: what lies outside is taken for its end, because a
    line that goes on for ever promises what nobody measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    mean: list[float]
    spread: list[float]
    weight: list[float]
    lowest: list[float]
    highest: list[float]

    @classmethod
    def fit(cls, features: NDArray[np.float64], kl: NDArray[np.float64]) -> Forecast:
        """From ``features`` [observations, features] and the KL [observations] found there."""
        mean, spread = features.mean(axis=0), features.std(axis=0) + 1e-9
        mean[0], spread[0] = 0.0, 1.0
        scaled = (features - mean) / spread
        penalty = _PENALTY * np.eye(scaled.shape[1])
        penalty[0, 0] = 0.0
        gram = scaled.T @ scaled + penalty
        weight = np.linalg.solve(gram, scaled.T @ log_kl(kl))
        parts = (mean, spread, weight, features.min(axis=0), features.max(axis=0))
        return cls(**dict(zip(cls.model_fields, (part.tolist() for part in parts), strict=True)))

    def log_kl(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        """Expected log KL [...] of ``features`` [..., features]."""
        within = np.clip(features, self.lowest, self.highest)
        return np.asarray(((within - np.array(self.mean)) / np.array(self.spread)) @ np.array(self.weight))


def log_kl(kl: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """The logarithm of a KL in nats, on the scale of the forecast."""
    return np.asarray(np.log(np.maximum(kl, 0.0) + KL_FLOOR))
