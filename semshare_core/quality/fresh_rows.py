"""The rows of a pooled entry, computed afresh from lossless rows only, in passes that a waiting call may interrupt."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

from torch import Tensor

from semshare_core.errors import DamagedFileError, PoolWarning
from semshare_core.match.plan import ReusePlan, Source
from semshare_core.model.attention.bit_blocks import block_of, passes, whole_blocks
from semshare_core.pool import Entry
from semshare_core.pool.entry import View
from semshare_core.pool.pool import ReferencePool
from semshare_core.pool.second_copy import SecondCopy
from semshare_core.prefill.cache import MergedCache, to_torch
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.process.interrupt import NEVER, Interrupt

PASS_ROWS = 128
"""Rows per pass. A call that arrives waits for one layer of a pass, and a pass that it interrupts is done again."""


class CopyLost(Exception):
    """Somebody else needed the room, or the entry has left the pool."""


class NoRoom(Exception):
    """The pool has no room for a second copy."""


@dataclass(eq=False)
class FreshRows:
    """Rows on their way. Every method needs the model's lock, and to be called as the entry's rows were computed.

    Attributes:
        pool: the entry's pool, which counts the rows.
        copy: the room for them. Its ``rows`` are the cache, so that they leave memory when the room is given up.
        ids: int64 [n], the entry's tokens, on the model's device.
        start: the first row to be computed.
        done: the rows before this one are there.
        computed: rows computed in all, those of interrupted passes included.
    """

    pool: ReferencePool
    prefill: SelectivePrefill
    copy: SecondCopy
    ids: Tensor
    start: int
    done: int
    computed: int = 0

    @classmethod
    def begin(
        cls,
        pool: ReferencePool,
        prefill: SelectivePrefill,
        entry: Entry,
        interrupt: Interrupt,
        *,
        from_scratch: bool = False,
        capacity: int = 0,
    ) -> FreshRows:
        """Reserve the room and lay the longest lossless prefix that the pool has.

        Args:
            from_scratch: compute all rows, whatever the pool has.
            capacity: rows that the cache has room for, at least; those of the entry in any case.

        Raises:
            NoRoom: the pool's budget has no room beside the entry.
            CopyLost: the prefix lies on disk and cannot be read. What needs it has left the pool, with a warning.
            CallWaits: a call waits for the model; nothing is left.
        """
        n = len(entry)
        found = None
        if not from_scratch:
            found = pool.longest_prefix(entry.namespace, entry.tokens, 0, weights=entry.weights)
        capacity = max(capacity, n)
        copy = pool.second_copy(entry, capacity)
        if copy is None:
            raise NoRoom
        views = [View(*found)] if found is not None else []
        start = found[1] if found is not None else 0
        plan = ReusePlan.empty(n, views)
        if start:
            plan.serve(0, start, Source.PREFIX, 0, 0)
        try:
            cache = prefill.lay_prefix(plan, views, capacity, interrupt)
            for layer in cache.layers if start else ():  # now, for until it is laid a prefix is kept in memory
                interrupt.check()
                _ = layer.buffers
            copy.rows = cache
        except DamagedFileError as error:
            pool.give_up(copy)
            pool.discard(views)
            warnings.warn(f"{error} The prompts that need it are left out.", PoolWarning, stacklevel=2)
            raise CopyLost from error
        except BaseException:
            pool.give_up(copy)
            raise
        return cls(pool, prefill, copy, to_torch(entry.tokens, prefill.model.device), start, start)

    @property
    def cache(self) -> MergedCache:
        """The rows so far.

        Raises:
            CopyLost: they are gone.
        """
        if not isinstance(self.copy.rows, MergedCache):
            raise CopyLost
        return self.copy.rows

    @property
    def complete(self) -> bool:
        """Whether all rows are there."""
        return self.done == len(self.ids)

    def advance(self, end: int, interrupt: Interrupt) -> None:
        """Compute one pass, at most to row ``end``.

        Raises:
            CallWaits: a call waits for the model: the pass is to be run again.
            CopyLost: there is nothing to go on with.
        """
        cache = self.cache
        cache.interrupt = interrupt
        part = passes(self.done, end, block_of(self.prefill.model), PASS_ROWS)[0]
        self.computed += len(part)
        self.prefill.compute(cache, self.ids, part)
        cache.interrupt = NEVER
        self.done = part.stop

    def read_from(self, end: int) -> MergedCache:
        """The cache with the first ``end`` rows, to which the model may append. What it appends is computed again."""
        cache = self.cache
        cache.finish(end)
        self.done = max(self.start, min(self.done, whole_blocks(end, block_of(self.prefill.model))))
        return cache

    def replace(self) -> bool:
        """Let the rows, all of which are there, replace the entry's; False if that very entry has left."""
        block = block_of(self.prefill.model)
        steady = None if block == 1 else whole_blocks(len(self.ids), block)
        return self.pool.heal(self.copy, self.start, steady)

    def give_up(self) -> None:
        """Free the room."""
        self.pool.give_up(self.copy)
