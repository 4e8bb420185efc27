"""A canary's check of the call that stored an entry heals that entry: one full prefill, not two."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress

import torch

from semshare_core.model.lock import CallWaits
from semshare_core.prefill.cache import MergedCache
from semshare_core.process.interrupt import Interrupt
from semshare_core.quality.fresh_rows import CopyLost, NoRoom
from semshare_core.quality.healing import Healing
from semshare_core.quality.healing_order import Candidate

PassContext = Callable[[], AbstractContextManager[Interrupt]]


class Claim:
    """An entry whose rows a check computes. It holds the engine's healing weakly, as checks outlive engines.

    The rows are computed from the first token on, without any row of the pool: a check must not believe what it checks.
    """

    def __init__(self, healing: Healing, candidate: Candidate) -> None:
        self._healing = weakref.ref(healing)
        self._candidate = candidate

    def prefix(self, end: int, room: int, pass_context: PassContext) -> MergedCache | None:
        """The full prefill's first ``end`` rows, with room for ``room`` more, which the model may append.

        ``pass_context`` makes the context of each pass. None: the pool has no room for them, or the engine is gone.
        """
        cache = None
        try:
            while cache is None:
                with suppress(CallWaits), pass_context() as interrupt:
                    cache = self._begin(end, room, interrupt)
        except (CopyLost, NoRoom, torch.OutOfMemoryError):
            self.release()
        return cache

    def complete(self, pass_context: PassContext) -> None:
        """Compute the other rows of the entry, the answer's, and let all of them replace the entry's."""
        healed = False
        with suppress(CopyLost, torch.OutOfMemoryError):
            while not healed:
                with suppress(CallWaits), pass_context() as interrupt:
                    healed = self._finish(interrupt)

    def _begin(self, end: int, room: int, interrupt: Interrupt) -> MergedCache | None:
        """One pass; the cache if it has the first ``end`` rows by now."""
        healing, candidate = self._living(), self._candidate
        with healing.numerics(candidate.autocast):
            fresh = healing.rows_of(candidate, interrupt, from_scratch=True, capacity=end + room)
            if fresh.done < end:
                fresh.advance(end, interrupt)
            return fresh.read_from(end) if fresh.done >= end else None

    def _finish(self, interrupt: Interrupt) -> bool:
        """One pass, or the last step behind them; whether it was that. The pass context has looked at the weights."""
        healing, candidate = self._living(), self._candidate
        with healing.numerics(candidate.autocast):
            fresh = healing.rows_of(candidate, interrupt, from_scratch=True)
            if not fresh.complete:
                fresh.advance(len(fresh.ids), interrupt)
                return False
        healing.complete(candidate)
        return True

    def release(self) -> None:
        """Leave the entry to the healing, if it is not healed yet."""
        healing = self._healing()
        if healing is not None:
            healing.release(self._candidate)

    def _living(self) -> Healing:
        healing = self._healing()
        if healing is None or self._candidate not in healing:
            raise CopyLost
        return healing
