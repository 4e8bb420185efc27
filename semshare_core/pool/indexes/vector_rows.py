"""What FAISS holds: one row for each vector of each entry, and whose row it is.

While they are few the rows are searched one by one (``IndexFlatIP``), and at any number on a GPU, which reads 100,000
of them in less time than a look-up's other parts take. On a CPU that takes too long from some 10,000 rows on: memory is
the limit. So the rows are rotated and kept as one bit a dimension (RaBitQ: Gao and Long, SIGMOD 2024, arXiv 2405.12497)
in inverted lists; FAISS compares the best of those again by eight bits a dimension, and what it returns is a shortlist
for exact scoring. Measured on 100,000 prompts' embeddings of 576 dimensions, best 8, one thread: a recall of 0.99 in
1.4 ms (17 ms one by one). Lists of 16-bit numbers took several times as long as lists of bits for the same recall:
prompts that are mixtures of passages fall into no clear clusters, so most lists must be visited in either.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semshare_core.process.faiss_import import import_faiss
from semshare_core.process.forking import free

Vectors = NDArray[np.float32]
"""Unit rows [m, dim]."""

FLAT_ROWS = 8192  # up to so many are searched one by one on a CPU
_LISTS, _VISITED = 64, 48
_COMPARED = 16  # rows compared by eight bits for each that is returned
_SAMPLES = 64  # rows for each list in training
_GPU_SCRATCH_BYTES = 64 * 2**20
_GPU_WIDEST = 2048  # FAISS returns no more rows than this from a GPU
_GPU_LOCK = free(threading.Lock())  # the scratch memory is for one call at a time


@cache
def _gpu_resources() -> Any:
    """FAISS's scratch memory on the GPU, one for all namespaces: by default each index would take 1.5 GiB."""
    resources = import_faiss().StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH_BYTES)
    return resources


class VectorRows:
    """Rows in the order of addition. Those of a removed entry stay until all are built anew, and count as nobody's.

    FAISS could remove rows from some of its indexes only, and moves all the others when it does.

    Attributes:
        exact: True if a search compares all rows, False if it returns a shortlist that may miss some.
        n_dead: rows of removed entries.
    """

    def __init__(self, entries: Iterable[tuple[str, Vectors]]) -> None:
        entries = list(entries)
        rows = np.concatenate([vectors for _, vectors in entries])
        faiss = import_faiss()
        on_gpu = getattr(faiss, "get_num_gpus", lambda: 0)() > 0
        self.exact = on_gpu or len(rows) <= FLAT_ROWS
        self.n_dead = 0
        self._built_of = len(rows)
        self._widest = _GPU_WIDEST if on_gpu else None
        self._one_call: AbstractContextManager[object] = _GPU_LOCK if on_gpu else nullcontext()
        self._on_gpu = on_gpu
        self._owners: list[str | None] = []
        self._first: dict[str, int] = {}
        dim = rows.shape[1]
        self._index: Any = faiss.IndexFlatIP(dim)
        with self._one_call:
            if on_gpu:
                self._index = faiss.index_cpu_to_gpu(_gpu_resources(), 0, self._index)
            elif not self.exact:  # of unit rows those at the least distance have the largest cosine
                kind = f"RR{dim},IVF{_LISTS},RaBitQfs,Refine(SQ8)"
                self._index = faiss.index_factory(dim, kind, faiss.METRIC_L2)
                self._index.k_factor = _COMPARED
                lists = faiss.extract_index_ivf(faiss.downcast_index(self._index.base_index))
                lists.nprobe = _VISITED
                self._index.train(rows[:: max(1, len(rows) // (_LISTS * _SAMPLES))])
            self._index.add(rows)
        for name, vectors in entries:
            self._own(name, len(vectors))

    def __len__(self) -> int:
        return len(self._owners)

    @property
    def n_bytes(self) -> int:
        """Bytes of FAISS's codes and of the owners."""
        dim = self._index.d
        code = 4 * dim if self.exact else dim + dim // 8 + 16  # eight bits and one bit; RaBitQ's factors, a number
        return len(self) * (code + 8) + 128 * len(self._first)

    @property
    def stale(self) -> bool:
        """Whether building anew would make searches better or smaller: much has come since, or gone."""
        if self.n_dead > max(64, len(self) // 4):
            return True
        if self.exact:
            return not self._on_gpu and len(self) > FLAT_ROWS
        return len(self) >= 2 * self._built_of

    def add(self, name: str, vectors: Vectors) -> None:
        with self._one_call:
            self._index.add(vectors)
        self._own(name, len(vectors))

    def remove(self, name: str) -> None:
        row = self._first.pop(name)
        while row < len(self._owners) and self._owners[row] == name:
            self._owners[row] = None
            self.n_dead += 1
            row += 1

    def widest(self) -> int:
        """The most rows that a search can return."""
        return min(len(self), self._widest or len(self))

    def nearest(self, queries: Vectors, width: int) -> tuple[set[str], NDArray[np.float32]]:
        """Owners of the ``width`` rows nearest to any of ``queries`` [q, dim], and the cosine of the last row [q].

        The cosines bound those of all other rows where the search is exact; elsewhere they mean nothing.
        """
        with self._one_call:
            cosines, rows = self._index.search(queries, width)
        owners = {self._owners[row] for row in rows[rows >= 0].tolist()}
        return {name for name in owners if name is not None}, cosines[:, -1]

    def _own(self, name: str, count: int) -> None:
        self._first[name] = len(self._owners)
        self._owners.extend([name] * count)
