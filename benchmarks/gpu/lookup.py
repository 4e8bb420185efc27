"""A look-up in the semantic index of a pool whose model is on a device, by the number of entries.

The query comes from the host, from the host while the device is busy, and from the device. FAISS on the CPU; on the
GPU, too, where that build is installed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu.part import Options, Record, options, settle
from semshare_core.pool.indexes.semantic_index import SemanticIndex
from semshare_core.process.faiss_import import import_faiss

Vectors = NDArray[np.float32]

_SIZES, _SIZES_TINY = (1_000, 10_000, 100_000), (100, 1_000, 9_000)
_DIM, _DIM_TINY = 576, 64
_LOOKUPS, _LOOKUPS_TINY = 200, 20
_BEST = 8
_PASSAGES, _OF_EACH = 512, 4  # entries are mixtures of passages, as prompts are
_NOISE = 0.3  # in a query, as a part of the entry's length
_BUSY_SIDE, _BUSY_PRODUCTS = 4096, 40


def main(argv: Sequence[str] | None = None) -> None:
    """Every build of FAISS, every size, every way of asking."""
    chosen = options("lookup", __doc__, argv)
    record = Record("lookup", chosen)
    faiss = import_faiss()
    threads = faiss.omp_get_max_threads()
    record.add("FAISS", f"{faiss.__version__}, {threads} threads", version=faiss.__version__, threads=threads)
    vectors = mixtures(max(_SIZES_TINY if chosen.tiny else _SIZES), _DIM_TINY if chosen.tiny else _DIM)
    with patch.object(faiss, "get_num_gpus", lambda: 0, create=True):
        record.attempt("CPU", _sizes, chosen, "CPU", vectors)
    if hasattr(faiss, "StandardGpuResources"):
        record.attempt("GPU", _sizes, chosen, "GPU", vectors)
    else:
        record.add("FAISS on the GPU", "that build is not installed")
    record.finish()


def mixtures(count: int, dim: int, seed: int = 0) -> Vectors:
    """Unit rows [count, dim], each the mean of some passages and noise."""
    random = np.random.default_rng(seed)
    passages = random.standard_normal((_PASSAGES, dim), dtype=np.float32)
    rows = 0.5 * random.standard_normal((count, dim), dtype=np.float32)
    for _ in range(_OF_EACH):
        rows += passages[random.integers(0, _PASSAGES, count)]
    return _unit(rows)


def _unit(rows: Vectors) -> Vectors:
    unit: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def _sizes(record: Record, chosen: Options, build: str, vectors: Vectors) -> None:
    count = _LOOKUPS_TINY if chosen.tiny else _LOOKUPS
    for size in _SIZES_TINY if chosen.tiny else _SIZES:
        held = vectors[:size]
        index = SemanticIndex()
        for number, vector in enumerate(held):
            index.add(str(number), vector)
        random = np.random.default_rng(1)
        near = held[random.integers(0, size, count)]
        noise = random.standard_normal(near.shape, dtype=np.float32)
        asked = _unit(near + np.float32(_NOISE / np.sqrt(near.shape[1])) * noise)
        began = time.perf_counter()
        index.search(asked[0], _BEST)
        built = time.perf_counter() - began
        recall = _recall(index, held, asked)
        told = f"first look-up, which builds: {built:.2f} s; recall of the best {_BEST}: {recall:.3f}"
        record.add(f"{build}, {size} entries", told, build_s=built, recall=recall, bytes=index.n_bytes)
        for way, took in _asked(index, asked, chosen.device):
            p50, p99 = np.quantile(took, (0.5, 0.99))
            told = f"{p50:.3f} ms, p99 {p99:.3f}"
            record.add(f"{build}, {size} entries, {way}", told, p50_ms=float(p50), p99_ms=float(p99), items=took)


def _recall(index: SemanticIndex, held: Vectors, asked: Vectors) -> float:
    best = np.argsort(-(asked @ held.T), axis=1)[:, :_BEST]
    found = [{int(name) for name, _ in index.search(query, _BEST)} for query in asked]
    shared = [len(mine & set(exact.tolist())) / _BEST for mine, exact in zip(found, best, strict=True)]
    return float(np.mean(shared))


def _asked(index: SemanticIndex, asked: Vectors, device: torch.device) -> Iterator[tuple[str, list[float]]]:
    """Milliseconds of each look-up, by where the query comes from."""
    yield "query on the host", [_ms(partial(index.search, query, _BEST)) for query in asked]
    if device.type == "cpu":
        return
    with _busy(device) as queue:
        took = []
        for query in asked:
            queue()
            took.append(_ms(partial(index.search, query, _BEST)))
    yield "query on the host, the device busy", took
    took = []
    for far in torch.as_tensor(asked, device=device):
        settle(device)
        took.append(_ms(partial(_from_device, index, far)))
    yield "query on the device", took


def _from_device(index: SemanticIndex, far: torch.Tensor) -> None:
    index.search(far.cpu().numpy(), _BEST)


@contextmanager
def _busy(device: torch.device) -> Iterator[Callable[[], None]]:
    """Gives a call that queues work for the device when it has none left."""
    a = torch.randn((_BUSY_SIDE, _BUSY_SIDE), device=device, dtype=torch.bfloat16)
    out = torch.empty_like(a)

    def queue() -> None:
        settle(device)
        for _ in range(_BUSY_PRODUCTS):
            torch.mm(a, a, out=out)

    yield queue
    settle(device)


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
