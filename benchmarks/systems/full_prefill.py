"""Plain transformers, every token computed: what all else is compared with, timed here like any other system."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.measure import full_prefill
from benchmarks.systems.system import Prefilled, Subject, System


class FullPrefill(System):
    """Its divergence is 0 and its speed 1, but for the noise of the clock."""

    name = "full prefill"

    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        def call() -> Prefilled:
            seconds, logits, cache = full_prefill(subject.engine.model, subject.base.ids)
            return Prefilled(seconds, logits, cache, subject.full_kv_bytes, 1.0, "full")

        return call
