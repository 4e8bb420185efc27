"""Plain transformers, every token computed: what all else is compared with, timed here like any other system.

Beside it the same with its cache rounded, as many serve it without a thought: how much of what others lose it loses.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from benchmarks.measure import full_prefill
from benchmarks.systems.system import Prefilled, Subject, System
from semshare_core.quality.divergence import Continuation


class FullPrefill(System):
    """Its divergence is 0 and its speed 1, but for the noise of the clock."""

    name = "full prefill"

    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        def call() -> Prefilled:
            seconds, logits, cache = full_prefill(subject.engine.model, subject.base.ids)
            return Prefilled(seconds, logits, cache, subject.full_kv_bytes, 1.0, "full")

        return call


class RoundedCache(System):
    """The cache is rounded to bfloat16 before the prompt's last token reads it."""

    name = "full prefill, cache in bfloat16"

    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        model, ids = subject.engine.model, subject.base.ids

        def call() -> Prefilled:
            started = time.perf_counter()
            cache = full_prefill(model, ids[:, :-1])[2]
            for layer in cache.layers:
                layer.keys, layer.values = (rows.bfloat16().to(rows.dtype) for rows in (layer.keys, layer.values))
            logits = Continuation(model, cache).read(ids[0, -1:], 1)[0]
            int(logits.argmax())
            return Prefilled(time.perf_counter() - started, logits, cache, subject.full_kv_bytes // 2, 1.0, "full")

        return call
