"""What one call holds in memory at most, beside the model and what the pool held before."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice

import psutil

from benchmarks.corpora import pydoc_text
from benchmarks.live_tensors import live_rows
from benchmarks.sections.figure import Figure, Run
from semshare_core import ReusePolicy, SemShareEngine
from semshare_core.pool import Entry

TOKENS, NEW_TOKENS = 2000, 256
SECONDS = 0.005  # between two looks
KINDS: dict[str, tuple[str | ReusePolicy, bool]] = {
    "nothing to reuse": ("exact", False),
    "a prefix": ("exact", True),
    "moved, a quarter computed": (ReusePolicy(recompute_ratio=0.25), True),
    "moved, and thinned out for decoding": (ReusePolicy.paper(recompute_ratio=0.25), True),
}


def memory(run: Run) -> Iterator[Figure]:
    """Keys and values that are alive, looked at every few milliseconds, in units of the call's own cache.

    That cache has a row for each token of the prompt and each that the answer may have.
    """
    engine = run.engine
    ids = _ids(run, run.tokens(TOKENS))
    half = len(ids) // 2
    cache = (len(ids) + NEW_TOKENS) * _token_bytes(engine)
    for name, (reuse, warmed) in KINDS.items():
        told = []
        for store in (False, True):
            engine.pool.clear()
            if warmed:
                engine.warm([ids])
            prompt = [*ids[half:], *ids[:half]] if isinstance(reuse, ReusePolicy) else [*ids, *ids[:8]]
            with _watched(engine) as most:
                pieces = engine.stream(prompt, max_new_tokens=NEW_TOKENS, reuse=reuse, store=store)
                next(pieces)
                pieces.close()  # all room is made before the first token; what is computed by then is kept
            what = "with its copy for the pool" if store else "without keeping it"
            told.append(f"{most.rows / cache:.2f} {what}")
        yield Figure(
            f"{len(prompt)} tokens, up to {NEW_TOKENS} more, {name}: keys and values alive at most",
            f"{', '.join(told)}; process {most.resident / 2**20:+.0f} MiB",
            f"of its own cache ({cache / 2**20:.0f} MiB)",
        )
    engine.pool.clear()


class _Most:
    """The most that was seen: bytes of rows made since, and by how much the process grew."""

    rows = 0
    resident = 0


@contextmanager
def _watched(engine: SemShareEngine) -> Iterator[_Most]:
    """Looks every few milliseconds, and when a call's rows are in the pool and the call still has its own."""
    most, ended = _Most(), threading.Event()
    process = psutil.Process()
    gc.collect()
    gc.freeze()  # what is there already is not counted
    before = process.memory_info().rss
    add = engine.pool.add

    def look() -> None:
        most.rows = max(most.rows, live_rows())
        most.resident = max(most.resident, process.memory_info().rss - before)

    def watch() -> None:
        while not ended.wait(SECONDS):
            look()

    def added(entry: Entry, *, copy: bool = False) -> bool:
        kept = add(entry, copy=copy)
        look()
        return kept

    looking = threading.Thread(target=watch)
    looking.start()
    engine.pool.add = added  # type: ignore[method-assign]
    try:
        yield most
    finally:
        engine.pool.add = add  # type: ignore[method-assign]
        ended.set()
        looking.join()
        gc.unfreeze()


def _ids(run: Run, count: int) -> list[int]:
    text = "\n\n".join(islice(pydoc_text.texts(), 40))
    ids: list[int] = run.engine.tokenizer(text, verbose=False)["input_ids"]
    return ids[:count]


def _token_bytes(engine: SemShareEngine) -> int:
    """Keys and values of one token."""
    config = engine.model.config
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * config.num_key_value_heads * head_dim * engine.model.dtype.itemsize)
