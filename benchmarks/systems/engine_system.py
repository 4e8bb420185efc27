"""The engine under one policy: what ours, the published methods and the ablations have in common."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

from benchmarks.systems.system import Prefilled, Subject, System
from semshare_core import ReusePolicy


@dataclass(frozen=True)
class EngineSystem(System):
    """TTFT is the report's: tokenizing, lookup, matching and rearranging are in it. Nothing is stored.

    Attributes:
        within: the context of each call.
    """

    name: str
    policy: ReusePolicy
    within: Callable[[], AbstractContextManager[object]] = nullcontext

    def ready(self, subject: Subject) -> Callable[[], Prefilled]:
        def call() -> Prefilled:
            with self.within():
                made = subject.engine.prefill(subject.case.target, reuse=self.policy, store=False)
            report = made.report
            return Prefilled(
                seconds=report.ttft_ms / 1e3,
                logits=made.logits,
                cache=made.cache,
                kv_bytes=report.kv_bytes,
                recompute_ratio=report.recompute_ratio,
                outcome=report.outcome,
                reason=report.reason,
                stepwise=report.kv_bytes < report.kv_bytes_full,
            )

        return call
