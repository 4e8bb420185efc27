"""What the page shows: the state now, and the last requests. No prompt, no answer and no key is in it."""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from semshare_core import ReuseReport, SemShareEngine
from semshare_core.report.token_strip import SOURCES, strip
from semshare_integrations.serving.admission import Admission
from semshare_integrations.serving.exchange import Exchange

_SHOWN = 20
_TIMES = 500


@dataclass
class Seen:
    """One answer. ``seconds``: from the request to the first token, with the wait."""

    id: str
    caller: str
    path: str
    finish_reason: str
    seconds: float
    report: ReuseReport

    @classmethod
    def of(cls, exchange: Exchange, report: ReuseReport, finish_reason: str) -> Seen:
        """What the page shows of an answer."""
        caller = exchange.caller.name if exchange.caller is not None else "nobody"
        seconds = exchange.seconds_before(report) + report.ttft_ms / 1e3
        return cls(exchange.id, caller, exchange.path, finish_reason, seconds, report)

    @cached_property
    def shown(self) -> dict[str, Any]:
        """The answer as the page has it. The picture of its tokens is drawn when somebody looks."""
        report = self.report
        difference = report.first_difference
        return {
            "id": self.id,
            "at": report.arrived_at,
            "caller": self.caller,
            "path": self.path,
            "finish": self.finish_reason,
            "outcome": report.outcome,
            "reason": report.reason,
            "difference": difference.summary() if difference is not None else "",
            "prompt": report.prompt_tokens,
            "computed": report.recomputed_tokens,
            "generated": report.generated_tokens,
            "ttft": self.seconds,
            "strip": strip(report.token_sources, report.token_recomputed),
        }


class Live:
    """Gathers answers for the page. Any thread may add one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: deque[Seen] = deque(maxlen=_SHOWN)
        self._first: deque[float] = deque(maxlen=_TIMES)
        self._sources: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()

    def add(self, seen: Seen) -> None:
        """An answer that is complete, or was cut off."""
        report = seen.report
        counts = (report.new_tokens, report.fuzzy_tokens, report.moved_tokens, report.prefix_tokens)
        with self._lock:
            self._seen.appendleft(seen)
            self._first.append(seen.seconds)
            self._outcomes[report.outcome] += 1
            self._sources.update({name: count for (name, _, _), count in zip(SOURCES, counts, strict=True)})
            self._sources.update(computed=report.recomputed_tokens, generated=report.generated_tokens)

    def state(self, admission: Admission, engine: SemShareEngine) -> dict[str, Any]:
        """The state now, JSON-able."""
        with self._lock:
            seen, first = list(self._seen), list(self._first)
            tokens, outcomes = dict(self._sources), dict(self._outcomes)
        return {
            "at": time.time(),
            "running": admission.running,
            "waiting": admission.waiting,
            "in_flight": admission.tokens,
            "tokens": tokens,
            "outcomes": outcomes,
            "ttft": first,
            "pool": asdict(engine.pool.stats()),
            "healing": asdict(engine.healing.counts()),
            "seen": [each.shown for each in seen],
        }
