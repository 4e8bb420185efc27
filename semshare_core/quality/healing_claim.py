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
        try:
            while True:
                with suppress(CallWaits), pass_context() as interrupt:
                    healing = self._living()
                    with healing.numerics(self._candidate.autocast):
                        fresh = healing.rows_of(self._candidate, interrupt, from_scratch=True, capacity=end + room)
                        if fresh.done >= end:
                            return fresh.read_from(end)
                        fresh.advance(end, interrupt)
        except (CopyLost, NoRoom, torch.OutOfMemoryError):
            self.release()
            return None

    def complete(self, pass_context: PassContext) -> None:
        """Compute the other rows of the entry, the answer's, and let all of them replace the entry's."""
        with suppress(CopyLost, NoRoom, torch.OutOfMemoryError):
            while True:
                with suppress(CallWaits), pass_context() as interrupt:
                    healing = self._living()
                    with healing.numerics(self._candidate.autocast):
                        fresh = healing.rows_of(self._candidate, interrupt, from_scratch=True)
                        if not fresh.complete:
                            fresh.advance(len(fresh.ids), interrupt)
                        if fresh.complete:
                            healing.complete(self._candidate)
                            return

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
