"""In which order entries are healed: what is about to be continued first, and each namespace in its turn.

Within a namespace the newest entry comes first: a conversation goes on where it ended. An entry that one later call has
drawn on for most of its text is behind that conversation, and is not healed; one that several calls have drawn on is
where conversations part, and comes after the new ones.

Between namespaces: start-time fair queueing (Goyal, Vin and Cheng, "Start-Time Fair Queueing", SIGCOMM 1996) over the
rows that are computed. A namespace that is busy waits while another one has had less; one that was idle saves nothing
up.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from semshare_core.model.autocast import Autocast
from semshare_core.pool import Entry
from semshare_core.quality.late_results import HEALED
from semshare_core.report import ReuseReport

_MOST = 0.5  # of an entry's tokens: a call that takes more continues it


@dataclass(eq=False)
class Candidate:
    """An entry with approximate rows.

    Attributes:
        entry: a weak reference, as is ``report``, that of the call that stored it; None: it came from the folder.
        tokens: how long it is; ``rows``: how many of its rows are to be computed, at most.
        autocast: that of the call.
        continued: how many later calls have drawn on most of it.
        claimed: somebody else, a check of the canary, computes its rows.
    """

    entry: weakref.ref[Entry]
    report: weakref.ref[ReuseReport] | None
    report_id: str | None
    namespace: str
    name: str
    tokens: int
    rows: int
    autocast: Autocast
    continued: int = 0
    claimed: bool = False

    @classmethod
    def of(cls, entry: Entry, report: ReuseReport | None, *, claimed: bool = False) -> Candidate:
        """An entry that the running call has stored, or has used: then without its report. Call it in its thread."""
        return cls(
            weakref.ref(entry),
            None if report is None else weakref.ref(report),
            None if report is None else report.id,
            entry.namespace,
            entry.id,
            tokens=len(entry),
            rows=len(entry) - len(entry.lossless),
            autocast=Autocast.current(),
            claimed=claimed,
        )

    def begin(self) -> None:
        """Say that the call's report will be completed."""
        if self.report_id is not None:
            HEALED.begin(self.report_id)

    def finish(self) -> list[Callable[[int], None]]:
        """Complete the call's report. Returns who wants to be called with the number of rows."""
        report = self.report() if self.report is not None else None
        if report is not None:
            report.healed_tokens = self.rows
        return HEALED.finish(self.report_id, self.rows) if self.report_id is not None else []

    def abandon(self) -> None:
        """Say that the call's report will not be completed."""
        if self.report_id is not None:
            HEALED.abandon(self.report_id)

    @property
    def behind(self) -> bool:
        """Whether the conversation has gone on without it."""
        return self.continued == 1


class HealingOrder:
    """The candidates of one engine. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str], Candidate] = {}  # by namespace and name, the oldest first
        self._spent: dict[str, float] = {}  # rows computed for each namespace, on a clock that all share
        self._clock = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, candidate: Candidate) -> bool:
        return self._waiting.get((candidate.namespace, candidate.name)) is candidate

    def add(self, candidate: Candidate) -> Candidate | None:
        """Enter a candidate; returns the one of the same text whose place it takes."""
        before = self._waiting.pop((candidate.namespace, candidate.name), None)
        self._waiting[candidate.namespace, candidate.name] = candidate
        return before

    def remove(self, candidate: Candidate) -> bool:
        """Take a candidate out; False if it was not there."""
        if candidate not in self:
            return False
        del self._waiting[candidate.namespace, candidate.name]
        return True

    def drawn_on(self, namespace: str, taken: Mapping[str, int]) -> None:
        """A later call that was stored has taken so many tokens of these entries."""
        for name, tokens in taken.items():
            candidate = self._waiting.get((namespace, name))
            if candidate is not None and tokens > _MOST * candidate.tokens:
                candidate.continued += 1

    def clear(self) -> None:
        """Take all out."""
        self._waiting.clear()

    @property
    def every(self) -> list[Candidate]:
        """All candidates, the oldest first."""
        return list(self._waiting.values())

    @property
    def open(self) -> list[Candidate]:
        """The candidates that are to be healed now or later, the oldest first."""
        return [each for each in self._waiting.values() if not each.claimed and not each.behind]

    def best(self, fits: Callable[[Candidate], bool]) -> Candidate | None:
        """The candidate to be healed next, of those that ``fits`` says True of; None: there is none."""
        fitting = [(number, each) for number, each in enumerate(self.open) if fits(each)]
        if not fitting:
            return None
        least = min(self._start(each.namespace) for _, each in fitting)
        turn = [(number, each) for number, each in fitting if self._start(each.namespace) == least]
        _, best = max(turn, key=lambda pair: (pair[1].continued == 0, pair[1].continued, pair[0]))
        return best

    def charge(self, candidate: Candidate) -> None:
        """Its rows are computed now."""
        self._clock = self._start(candidate.namespace)
        self._spent[candidate.namespace] = self._clock + candidate.rows
        self._spent = {name: spent for name, spent in self._spent.items() if spent > self._clock}

    def _start(self, namespace: str) -> float:
        return max(self._spent.get(namespace, 0.0), self._clock)
