"""What calls reused, gathered through LangChain's callbacks."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.outputs import ChatGeneration, Generation, LLMResult
from langchain_core.tracers.context import register_configure_hook

from semshare_core import ReuseReport

_COLUMNS = ("call", "outcome", "prompt", "prefix", "exact", "fuzzy", "new", "ratio", "TTFT ms")


@dataclass(frozen=True)
class ReuseTotals:
    """The sum over calls. ``mean_recompute_ratio`` is the mean over calls, None if there were none."""

    calls: int
    outcomes: dict[str, int]
    prompt_tokens: int
    prefix_tokens: int
    exact_tokens: int
    fuzzy_tokens: int
    new_tokens: int
    recomputed_tokens: int
    generated_tokens: int
    mean_recompute_ratio: float | None
    ttft_ms: float

    @classmethod
    def of(cls, reports: Sequence[ReuseReport]) -> ReuseTotals:
        """The totals of ``reports``."""
        calls = len(reports)
        return cls(
            calls=calls,
            outcomes=dict(Counter(report.outcome for report in reports)),
            prompt_tokens=sum(report.prompt_tokens for report in reports),
            prefix_tokens=sum(report.prefix_tokens for report in reports),
            exact_tokens=sum(report.exact_tokens for report in reports),
            fuzzy_tokens=sum(report.fuzzy_tokens for report in reports),
            new_tokens=sum(report.new_tokens for report in reports),
            recomputed_tokens=sum(report.recomputed_tokens for report in reports),
            generated_tokens=sum(report.generated_tokens for report in reports),
            mean_recompute_ratio=sum(report.recompute_ratio for report in reports) / calls if calls else None,
            ttft_ms=sum(report.ttft_ms for report in reports),
        )


class SemShareCallbackHandler(BaseCallbackHandler):
    """Collects the :class:`ReuseReport` of every SemShare call that it is told of. Thread-safe.

    >>> reuse = SemShareCallbackHandler()
    >>> chain.invoke(question, config={"callbacks": [reuse]})
    >>> reuse.reports[-1].outcome, reuse.totals().prefix_tokens
    >>> print(reuse.summary())

    Answers that come out of LangChain's response cache are no calls, and are not counted.
    """

    run_inline = True  # a thread of the executor would cost more than the little that is done here

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._reports: list[ReuseReport] = []
        self._runs: set[UUID] = set()
        self._outer: SemShareCallbackHandler | None = None

    @property
    def reports(self) -> list[ReuseReport]:
        """One report per prompt answered, in the order in which the answers were finished."""
        with self._lock:
            return list(self._reports)

    def totals(self) -> ReuseTotals:
        """Calls, outcomes, tokens by source, recomputation and time to the first token, over all reports."""
        return ReuseTotals.of(self.reports)

    def summary(self) -> str:
        """The totals in words, and a table with one line per call."""
        reports = self.reports
        totals = ReuseTotals.of(reports)
        if totals.mean_recompute_ratio is None:
            return "no calls"
        outcomes = ", ".join(f"{count} {outcome}" for outcome, count in sorted(totals.outcomes.items()))
        calls = "1 call" if totals.calls == 1 else f"{totals.calls} calls"
        head = (
            f"{calls} ({outcomes}): {totals.prompt_tokens} prompt tokens = {totals.prefix_tokens} prefix + "
            f"{totals.exact_tokens} exact + {totals.fuzzy_tokens} fuzzy + {totals.new_tokens} new; "
            f"mean recompute ratio {totals.mean_recompute_ratio:.2f}, total TTFT {totals.ttft_ms:.0f} ms"
        )
        return "\n".join((head, *_table(reports)))

    def clear(self) -> None:
        """Forget all reports."""
        with self._lock:
            self._reports.clear()
            self._runs.clear()

    def on_llm_end(self, response: LLMResult, *, run_id: UUID, **kwargs: Any) -> None:
        """Called by LangChain when a prompt is answered, streamed or not."""
        generations = [generation for candidates in response.generations for generation in candidates]
        reports = [report for report in map(_report_of, generations) if report is not None]
        self._add(run_id, reports)

    def _add(self, run_id: UUID, reports: Sequence[ReuseReport]) -> None:
        with self._lock:
            if run_id in self._runs:  # an outer handler may hear of a run from LangChain, too
                return
            self._runs.add(run_id)
            self._reports.extend(reports)
        if self._outer is not None:
            self._outer._add(run_id, reports)


_active: ContextVar[SemShareCallbackHandler | None] = ContextVar("semshare_callback", default=None)
register_configure_hook(_active, inheritable=True)


@contextmanager
def get_semshare_callback() -> Iterator[SemShareCallbackHandler]:
    """Collect the reports of all SemShare calls made inside the ``with`` block, in chains, threads and tasks alike.

    Blocks may be nested: the outer one counts the calls of the inner one, too.
    """
    handler = SemShareCallbackHandler()
    handler._outer = _active.get()
    token = _active.set(handler)
    try:
        yield handler
    finally:
        _active.reset(token)


def _report_of(generation: Generation) -> ReuseReport | None:
    """A text model's report is in ``generation_info``, a chat model's in its message's ``response_metadata``."""
    told = (generation.generation_info or {}).get("semshare")
    if told is None and isinstance(generation, ChatGeneration):
        told = generation.message.response_metadata.get("semshare")
    return None if told is None else ReuseReport.model_validate(told)


def _table(reports: Sequence[ReuseReport]) -> list[str]:
    rows = [_COLUMNS] + [
        (
            str(number),
            report.outcome,
            str(report.prompt_tokens),
            str(report.prefix_tokens),
            str(report.exact_tokens),
            str(report.fuzzy_tokens),
            str(report.new_tokens),
            f"{report.recompute_ratio:.2f}",
            f"{report.ttft_ms:.0f}",
        )
        for number, report in enumerate(reports, start=1)
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
