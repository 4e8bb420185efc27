"""Search over prompt embeddings: which references does a new prompt resemble?

A long prompt is embedded by segments, so an entry has several vectors, and so has the prompt. They are compared by
MaxSim, the late interaction of ColBERT (Khattab and Zaharia, SIGIR 2020, arXiv 2004.12832): each segment of the prompt
looks for its best counterpart in the entry. FAISS names candidates segment by segment; they are scored exactly.
"""

from __future__ import annotations

import threading

import numpy as np

from semshare_core.errors import ConfigError
from semshare_core.pool.indexes.vector_rows import VectorRows, Vectors
from semshare_core.process import forking
from semshare_core.product import product

_SHORTLIST, _SURPLUS = 32, 4  # rows for each segment, at least and for each entry wanted, where FAISS ranks coarsely
_WIDENING = 4
_ROUNDING = 1e-5


class SemanticIndex:
    """Entries by the likeness of their embeddings.

    Every method may be called from any thread without a lock of the caller's; a lock inside is held for the time of one
    search or addition. Building FAISS's index anew, when it has grown or shrunk much, happens in a thread of its own
    while searches go on in the old one.

    The vectors given are kept as they are (no copy), so that FAISS's index can be built anew whenever it is lost.
    """

    def __init__(self) -> None:
        self._lock = forking.whole(threading.RLock())
        self._vectors: dict[str, Vectors] = {}
        self._vector_bytes = 0
        self._dim = 0
        self._rows: VectorRows | None = None
        self._changes: list[tuple[str, Vectors | None]] | None = None  # while others are being built: what they miss
        self._builds = forking.free(threading.Lock())
        self._builder: threading.Thread | None = None
        forking.renewed(self._after_fork)

    def __len__(self) -> int:
        return len(self._vectors)

    @property
    def n_bytes(self) -> int:
        """Bytes of the vectors and of FAISS's index."""
        with self._lock:
            return self._vector_bytes + (self._rows.n_bytes if self._rows is not None else 0)

    def add(self, name: str, vectors: Vectors) -> None:
        """Enter ``name``, which must not be there, with its unit rows float32 [m, dim] or [dim].

        Raises ConfigError where they have not as many dimensions as those that are there.
        """
        rows = np.atleast_2d(vectors)
        with self._lock:
            if not self._vectors:
                self._dim = rows.shape[1]
            self._check(rows)
            self._vectors[name] = rows
            self._vector_bytes += rows.nbytes
            self._apply(name, rows)

    def remove(self, name: str) -> None:
        """Forget ``name``. Raises KeyError if it is not there."""
        with self._lock:
            self._vector_bytes -= self._vectors.pop(name).nbytes
            self._apply(name, None)

    def search(self, vectors: Vectors, k: int) -> list[tuple[str, float]]:
        """The ``k`` entries most like ``vectors``, unit rows float32 [q, dim] or [dim], best first.

        Their similarity is the mean over the q rows of the largest cosine to any row of the entry, mapped from [-1, 1]
        to [0, 1]. The similarities are exact. So is the choice, up to 8192 rows and at any number on a GPU with few
        entries removed; beyond, some of the ``k`` may be missed (recall 0.99 where it was measured). Should FAISS fail,
        its index is built anew once; RuntimeError is what remains if it fails again.
        """
        queries = np.atleast_2d(vectors)
        with self._lock:
            if not self._vectors:
                return []
            self._check(queries)
            if self._rows is not None:
                try:
                    return self._found(self._rows, queries, k)
                except RuntimeError:  # FAISS's own errors, such as a GPU's
                    self._rows = None
            self._rows = VectorRows(self._vectors.items())
            return self._found(self._rows, queries, k)

    def rebuild(self) -> None:
        """Build FAISS's index anew from the vectors; searches, additions and removals go on meanwhile."""
        with self._builds:
            with self._lock:
                if not self._vectors:
                    self._rows = None
                    return
                entries = list(self._vectors.items())
                self._changes = []
            try:
                fresh = VectorRows(entries)
                with self._lock:
                    for name, vectors in self._changes:
                        _change(fresh, name, vectors)
                    self._rows = fresh if self._vectors else None
            finally:
                with self._lock:
                    self._changes = None

    def _after_fork(self) -> None:
        """In a forked child nobody builds; FAISS's index, should it be half-changed, is built anew from the vectors."""
        self._changes, self._builder = None, None
        if forking.torn(self._lock):
            self._rows = None

    def _apply(self, name: str, vectors: Vectors | None) -> None:
        if self._changes is not None:
            self._changes.append((name, vectors))
        if not self._vectors:
            self._rows = None
        if self._rows is None:
            return
        try:
            _change(self._rows, name, vectors)
        except RuntimeError:  # FAISS's: the next search builds anew, and tells if that fails, too
            self._rows = None
            return
        if self._rows.stale and (self._builder is None or not self._builder.is_alive()):
            self._builder = threading.Thread(target=self.rebuild, name="semshare-semantic-index")
            self._builder.start()

    def _found(self, rows: VectorRows, queries: Vectors, k: int) -> list[tuple[str, float]]:
        """Widen the search until no entry outside can be better: Fagin's threshold algorithm (PODS 2001)."""
        width = k if rows.exact else max(_SHORTLIST, _SURPLUS * k)
        while True:
            width = min(width, rows.widest())
            names, bounds = rows.nearest(queries, width)
            best = self._best(sorted(names), queries, k)
            enough = len(best) == k and (not rows.exact or best[-1][1] >= float((1 + bounds.mean()) / 2) - _ROUNDING)
            if enough or width == rows.widest():
                return best
            width *= _WIDENING

    def _best(self, names: list[str], queries: Vectors, k: int) -> list[tuple[str, float]]:
        """The ``k`` best of ``names`` (ascending, which settles ties) by their exact likeness."""
        if not names:
            return []
        candidates = [self._vectors[name] for name in names]
        first = np.cumsum([0, *(len(vectors) for vectors in candidates[:-1])])
        cosines = product(queries, np.concatenate(candidates).T)
        similarity = (1 + np.maximum.reduceat(cosines, first, axis=1).mean(axis=0)) / 2
        return [(names[which], float(similarity[which])) for which in np.argsort(-similarity, kind="stable")[:k]]

    def _check(self, rows: Vectors) -> None:
        if rows.shape[1] != self._dim:
            raise ConfigError(
                f"An embedding of {rows.shape[1]} dimensions came to a pool whose embeddings have {self._dim}: one "
                "pool takes one embedding model. Clear the pool, or embed with the model that filled it."
            )


def _change(rows: VectorRows, name: str, vectors: Vectors | None) -> None:
    if vectors is None:
        rows.remove(name)
    else:
        rows.add(name, vectors)
