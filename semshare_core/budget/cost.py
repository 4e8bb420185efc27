"""What a prefill takes, predicted from the rows that it computes: whether reuse pays before any of it is done."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class CostModel(BaseModel):
    """Seconds = ``fixed`` + ``row`` x rows + ``pair`` x rows x keys read + ``laid`` x rows laid.

    It belongs to the kind of device that was measured. Between machines of one kind the ratios of its terms, which
    decide, differ less than the terms do; on an accelerator ``fixed`` weighs more than on a CPU.

    Attributes:
        fixed: seconds of a reusing call that depend on nothing.
        row: seconds per computed row; ``pair``: per computed row and key that it reads.
        laid: seconds per reused row: lookup, matching, reading, moving its keys, and what is watched.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixed: float
    row: float
    pair: float
    laid: float

    @classmethod
    def fit(
        cls,
        tokens: NDArray[np.float64],
        full_seconds: NDArray[np.float64],
        rows: NDArray[np.float64],
        seconds: NDArray[np.float64],
    ) -> CostModel:
        """Least relative squares, no coefficient below 0.

        Args:
            tokens: [calls], of the prompts, and ``full_seconds`` [calls] of their full prefills.
            rows: [calls, ratios] computed at each ratio, and ``seconds`` [calls, ratios] with everything counted, NaN
                where it was not tried.
        """
        known = ~np.isnan(seconds)
        n, rows = np.repeat(tokens[:, None], rows.shape[1], axis=1)[known], rows[known]
        full = _design(np.zeros_like(tokens), tokens, tokens / 2, np.zeros_like(tokens))
        design = np.concatenate([full, _design(np.ones_like(n), rows, n, n - rows)])
        target = np.concatenate([full_seconds, seconds[known]])
        return cls(**dict(zip(cls.model_fields, non_negative_fit(design, target).tolist(), strict=True)))

    def full(self, tokens: int) -> float:
        """Seconds of a full prefill of so many tokens."""
        return float(_design(0.0, tokens, tokens / 2, 0.0) @ self._weights)

    def reuse(self, tokens: int, rows: int) -> float:
        """Seconds of a prefill that computes ``rows`` of them."""
        return float(_design(1.0, rows, tokens, tokens - rows) @ self._weights)

    @property
    def _weights(self) -> NDArray[np.float64]:
        return np.array([self.fixed, self.row, self.pair, self.laid])


def _design(
    reuse: NDArray[np.float64] | float,
    rows: NDArray[np.float64] | float,
    keys: NDArray[np.float64] | float,
    laid: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    return np.stack(np.broadcast_arrays(reuse, rows, np.multiply(rows, keys), laid), axis=-1).astype(np.float64)


def non_negative_fit(design: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weights [columns], none below 0, that bring ``design`` [rows, columns] nearest to ``target`` [rows], each
    error counted relative to its target."""
    from scipy.optimize import nnls  # takes a moment to import, and only those who fit need it

    return np.asarray(nnls(design / target[:, None], np.ones_like(target))[0])
