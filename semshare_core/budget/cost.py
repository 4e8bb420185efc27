"""A model of the time of a prefill, from the number of computed rows. It says beforehand whether reuse pays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict


class CostModel(BaseModel):
    """Seconds = ``fixed`` + ``row`` x rows + ``pair`` x rows x keys read + ``laid`` x rows laid.

    A row reads the keys before it. The last rows of a prompt read all but half of their own number. We count so
    wherever the rows stand: that is exact behind a prefix and for a full prefill, and too much for rows further ahead.

    The model belongs to one kind of device. Only the ratios of the terms matter, and they differ little between
    machines of one kind. On an accelerator ``fixed`` weighs more than on a CPU.

    Attributes:
        fixed: constant seconds of a call that reuses rows.
        row: seconds per computed row; ``pair``: per computed row and key that it reads.
        laid: seconds per reused row, for lookup, matching, reading, moving its keys and watching.
        device: the kind of device that was measured, as torch names it. Of other kinds nothing is said.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    fixed: float
    row: float
    pair: float
    laid: float
    device: str = "cpu"

    @classmethod
    def fit(
        cls,
        tokens: NDArray[np.float64],
        full_seconds: NDArray[np.float64],
        rows: NDArray[np.float64],
        seconds: NDArray[np.float64],
        device: str = "cpu",
    ) -> CostModel:
        """Fit by least relative squares, with no coefficient below 0.

        Args:
            tokens: [calls], the lengths of the prompts.
            full_seconds: [calls], the times of their full prefills.
            rows: [calls, ratios], the computed rows at each ratio.
            seconds: [calls, ratios], the whole time at each ratio; NaN where it was not measured.
        """
        measured = ~np.isnan(seconds)
        n, rows = np.repeat(tokens[:, None], rows.shape[1], axis=1)[measured], rows[measured]
        full = _design(np.zeros_like(tokens), tokens, tokens / 2, np.zeros_like(tokens))
        design = np.concatenate([full, _design(np.ones_like(n), rows, n - rows / 2, n - rows)])
        target = np.concatenate([full_seconds, seconds[measured]])
        fixed, row, pair, laid = non_negative_fit(design, target).tolist()
        return cls(fixed=fixed, row=row, pair=pair, laid=laid, device=device)

    def full(self, tokens: int) -> float:
        """Seconds of a full prefill of ``tokens`` tokens."""
        return float(_design(0.0, tokens, tokens / 2, 0.0) @ self._weights)

    def reuse(self, tokens: int, rows: int) -> float:
        """Seconds of a prefill of ``tokens`` tokens that computes ``rows`` rows."""
        return float(_design(1.0, rows, tokens - rows / 2, tokens - rows) @ self._weights)

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
    """Solve ``design`` [rows, columns] @ weights = ``target`` [rows] by least relative squares, no weight below 0."""
    from scipy.optimize import nnls  # a slow import, which only fitting needs

    return np.asarray(nnls(design / target[:, None], np.ones_like(target))[0])
