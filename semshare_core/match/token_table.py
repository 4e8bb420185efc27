"""The model's token embeddings, as matching sees them: a fixed table of centred unit rows.

Two facts of text make raw embeddings poor evidence. All rows share a common direction (Mu & Viswanath, arXiv
1702.01417), so the mean of running text is taken off. And frequent tokens say little (SIF, Arora et al., ICLR 2017), so
a prompt's embedding weighs tokens by ``a / (a + p)``. The token frequencies p come from the ids themselves: byte-pair
vocabularies are numbered by falling frequency, hence p ~ 1 / (id + 1) (Zipf).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.sorting import distinct
from semshare_core.tokens import Tokens

_SIF = 1e-4
_FREQUENT = 32_768  # ids beyond this carry next to nothing of the mean


class TokenTable:
    """Centred unit embeddings by token id, gathered on demand from ``weight`` [vocabulary, dim] wherever it lives.

    ``weight`` may be a function that gives the weight as it is now: the table follows where it is replaced or resized.
    """

    def __init__(self, weight: Tensor | Callable[[], Tensor]) -> None:
        self._current = weight if callable(weight) else lambda: weight
        self._seen: tuple[int, int, torch.Size] | None = None
        self._follow()

    def _follow(self) -> None:
        weight = self._current().detach()
        seen = (weight.data_ptr(), -1 if weight.is_inference() else weight._version, weight.shape)
        if seen == self._seen:
            return
        self._seen, self._weight = seen, weight
        self.dim = weight.shape[1] - weight.shape[1] % 2
        self._harmonic = float((1 / np.arange(1, len(weight) + 1)).sum())
        frequent = torch.nn.functional.normalize(self._weight[:_FREQUENT, : self.dim].float(), dim=1)
        share = 1 / torch.arange(1, len(frequent) + 1, dtype=torch.float32, device=frequent.device)
        self._centre = (frequent * (share / share.sum())[:, None]).sum(dim=0)

    def unit(self, ids: Tokens) -> NDArray[np.float32]:
        """Rows float32 [len(ids), dim], each of length 1; each distinct id is gathered once."""
        self._follow()
        several, inverse = np.unique(ids, return_inverse=True)
        return np.ascontiguousarray(self._unit(several).cpu().numpy()[inverse])

    def embed(self, ids: Tokens) -> NDArray[np.float32]:
        """A prompt's embedding float32 [dim], unit length: the weighted mean over its distinct tokens."""
        self._follow()
        several = distinct(ids)
        frequency = 1 / ((several + 1) * self._harmonic)
        weight = torch.as_tensor(_SIF / (_SIF + frequency), dtype=torch.float32, device=self._weight.device)
        mean = weight @ self._centred(several)
        return np.asarray(torch.nn.functional.normalize(mean, dim=0).cpu().numpy())

    def cosines(self, ids: Tokens, others: Tokens) -> NDArray[np.float32]:
        """Cosines float32 [len(ids), len(others)], multiplied where the table is (see ``semshare_core.product``)."""
        self._follow()
        return np.asarray(self._cosines(ids, others).cpu().numpy())

    def cosines_at(
        self, ids: Tokens, others: Tokens, rows: NDArray[np.int64], columns: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """``cosines(ids, others)[rows, columns]``; only these leave the device."""
        self._follow()
        places = torch.as_tensor(rows * len(others) + columns, device=self._weight.device)
        return np.asarray(self._cosines(ids, others).flatten()[places].cpu().numpy())

    def _cosines(self, ids: Tokens, others: Tokens) -> Tensor:
        return self._unit(ids) @ self._unit(others).T

    def _unit(self, ids: Tokens) -> Tensor:
        return torch.nn.functional.normalize(self._centred(ids), dim=1)

    def _centred(self, ids: Tokens) -> Tensor:
        index = torch.as_tensor(ids, device=self._weight.device)
        rows = torch.nn.functional.normalize(self._weight[index][:, : self.dim].float(), dim=1)
        return rows - self._centre
