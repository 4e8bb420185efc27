"""FAISS index over prompt embeddings: which references does a new prompt resemble?"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from semshare_core.faiss_import import import_faiss

Vector = NDArray[np.float32]


_GPU_SCRATCH_BYTES = 64 * 2**20


@cache
def _gpu_resources() -> Any:
    """FAISS's scratch memory on the GPU, one for all namespaces: by default each index would take 1.5 GiB."""
    resources = import_faiss().StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH_BYTES)
    return resources


class SemanticIndex:
    """Exact inner-product search over unit vectors, on the first GPU when FAISS sees one.

    A GPU index cannot remove vectors: there a removal marks it stale and the next search builds it again.
    """

    def __init__(self) -> None:
        self._faiss = import_faiss()
        self._vectors: dict[str, Vector] = {}
        self._names: dict[int, str] = {}
        self._numbers: dict[str, int] = {}
        self._next = 0
        self._index: Any = None
        self._on_gpu = getattr(self._faiss, "get_num_gpus", lambda: 0)() > 0

    def __len__(self) -> int:
        return len(self._vectors)

    def add(self, name: str, vector: Vector) -> None:
        self._vectors[name] = vector
        number = self._next
        self._next += 1
        self._names[number], self._numbers[name] = name, number
        if self._index is not None:
            self._index.add_with_ids(vector[None], np.array([number], np.int64))

    def remove(self, name: str) -> None:
        del self._vectors[name]
        number = self._numbers.pop(name)
        del self._names[number]
        if self._index is None:
            return
        if self._on_gpu:
            self._index = None
        else:
            self._index.remove_ids(np.array([number], np.int64))

    def search(self, vector: Vector, k: int) -> list[tuple[str, float]]:
        """The ``k`` nearest names with their similarity, the cosine mapped from [-1, 1] to [0, 1]; best first."""
        if not self._vectors:
            return []
        if self._index is None:
            self._build()
        cosines, numbers = self._index.search(vector[None], min(k, len(self._vectors)))
        found = [
            (self._names[int(number)], float((1 + cosine) / 2))
            for cosine, number in zip(cosines[0], numbers[0], strict=True)
            if number >= 0
        ]
        return sorted(found, key=lambda item: (-item[1], item[0]))

    def _build(self) -> None:
        names = list(self._vectors)
        flat: Any = self._faiss.IndexFlatIP(len(self._vectors[names[0]]))
        if self._on_gpu:
            flat = self._faiss.index_cpu_to_gpu(_gpu_resources(), 0, flat)
        self._index = self._faiss.IndexIDMap2(flat) if not self._on_gpu else self._faiss.IndexIDMap(flat)
        numbers = np.array([self._numbers[name] for name in names], np.int64)
        self._index.add_with_ids(np.stack([self._vectors[name] for name in names]), numbers)
