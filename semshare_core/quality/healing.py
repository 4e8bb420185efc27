"""Healing: entries with approximate rows are computed afresh, in the background, while no call waits.

What serves approximately adds to the error of what comes after it. While nobody waits there is time to undo that: all
rows from the first approximate one on are computed again (those behind it have read it), from lossless rows only. The
next turn of the conversation then finds a lossless prompt.
"""

from __future__ import annotations

import threading
import time
import traceback
import warnings
import weakref
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from semshare_core.config import Heal
from semshare_core.errors import QualityWarning
from semshare_core.model import autocast
from semshare_core.model.autocast import Autocast
from semshare_core.model.computing import computing
from semshare_core.model.lock import CallWaits, ModelLock
from semshare_core.model.weights import Weights
from semshare_core.pool import Entry
from semshare_core.pool.pool import ReferencePool
from semshare_core.prefill.selective import SelectivePrefill
from semshare_core.process import forking
from semshare_core.process.interrupt import Interrupt
from semshare_core.process.worker import Worker
from semshare_core.quality.fresh_rows import CopyLost, FreshRows, NoRoom
from semshare_core.quality.healing_order import Candidate, HealingOrder
from semshare_core.report import ReuseReport

_REMEMBERED_ERRORS = 20


@dataclass(frozen=True)
class HealingCounts:
    """What became of the entries with approximate rows that calls stored, or used from the folder, and the work for it.

    Attributes:
        waiting: to be healed; ``behind``: not to be healed, because the conversation has gone on without them.
        healed: all their rows are lossless now.
        gone: they left the pool, or other weights compute now, before their turn came.
        refused: the pool had no room for a second copy.
        failed: an error; also one while the next entry was chosen, which stays.
        rows: computed for those that were healed; ``wasted_rows``: computed in vain, because a call interrupted a pass
            or the entry left meanwhile.
        seconds: spent in passes.
    """

    waiting: int = 0
    behind: int = 0
    healed: int = 0
    gone: int = 0
    refused: int = 0
    failed: int = 0
    rows: int = 0
    wasted_rows: int = 0
    seconds: float = 0.0


class Healing:
    """The healing of one engine. Thread-safe.

    >>> engine = SemShareEngine(model, tokenizer, pool=PoolConfig(heal=True))
    >>> engine.healing.wait(), engine.healing.counts().healed

    Args:
        settings: None switches it off.
        lock: the model's.
    """

    def __init__(
        self,
        settings: Heal | None,
        lock: ModelLock,
        pool: ReferencePool,
        prefill: SelectivePrefill,
        weights: Weights,
    ) -> None:
        self._settings = settings
        self._model_lock = lock
        self._pool = pool
        self._prefill = prefill
        self._weights = weights
        self._worker = Worker("semshare-healing")
        self._lock = forking.whole(threading.RLock())
        self._order = HealingOrder()
        self._known: weakref.WeakSet[Entry] = weakref.WeakSet()  # were candidates once, whatever became of it
        self._current: Candidate | None = None
        self._fresh: dict[Candidate, FreshRows] = {}  # here and not in a thread, which would keep the pool alive
        self._counts: Counter[str] = Counter()
        self._seconds = 0.0
        self._errors: deque[str] = deque(maxlen=_REMEMBERED_ERRORS)
        self._warned = False
        weakref.finalize(self, _abandon, self._order).atexit = False
        forking.renewed(self._after_fork)

    # For users

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing more is being healed, at most ``timeout`` seconds. Returns whether that is so.

        After an error (:attr:`errors`) entries may still wait, until a call asks for healing again.

        Entries that other weights than the present ones computed are not waited for, and neither are those that checks
        of the canary heal: ``engine.canary.wait()`` comes first.
        """
        return self._worker.wait(timeout)

    def counts(self) -> HealingCounts:
        """What became of the entries so far."""
        with self._lock:
            self._prune()
            behind = sum(each.behind for each in self._order.every)
            counts = {**self._counts, "waiting": len(self._order) - behind, "behind": behind}
            return HealingCounts(**counts, seconds=self._seconds)

    @property
    def errors(self) -> list[str]:
        """The last tracebacks."""
        with self._lock:
            return list(self._errors)

    def close(self) -> None:
        """End the running pass between two layers, and heal no more. A call that runs is not waited for."""
        self._worker.close()
        with self._lock:
            for candidate in self._order.every:
                self._leave(candidate, "gone")

    # For the engine

    def __contains__(self, candidate: Candidate) -> bool:
        """Whether a candidate may still be healed."""
        with self._lock:
            return candidate in self._order

    def consider(
        self, entry: Entry, report: ReuseReport, taken: Mapping[str, int], *, claimed: bool = False
    ) -> Candidate | None:
        """A call has stored ``entry``: heal it when no call waits, if it has approximate rows.

        Args:
            report: the call's. ``healed_tokens`` is completed in this very object.
            taken: how many tokens the call took of which entries.
            claimed: a check of the canary computes its rows (:class:`semshare_core.quality.healing_claim.Claim`).

        Returns:
            The candidate; None if there is nothing to heal.
        """
        if self._settings is None or self._worker.closed:
            return None
        with self._lock:
            self._order.drawn_on(entry.namespace, taken)
            if not entry.approximates or len(entry) > self._settings.max_tokens:
                return None
            candidate = Candidate.of(entry, report, claimed=claimed)
            self._enter(candidate, entry)
        if not claimed:
            self.ask()
        return candidate

    def consider_used(self, entries: Iterable[Entry]) -> None:
        """A call has drawn on ``entries``: heal those that no call of this engine has stored, but its folder has kept.

        The call's weights and numerics are those that computed them, or it would not have found them. Call this before
        :meth:`consider`: an entry that the call has continued is behind it.
        """
        settings = self._settings
        if settings is None or self._worker.closed:
            return
        with self._lock:
            unknown = [each for each in entries if each.approximates and each not in self._known]
            new = [each for each in unknown if len(each) <= settings.max_tokens]
            for entry in new:
                self._enter(Candidate.of(entry, None), entry)
        if new:
            self.ask()

    def _enter(self, candidate: Candidate, entry: Entry) -> None:
        self._known.add(entry)
        before = self._order.add(candidate)
        if before is not None:
            self._leave(before, "gone")
        candidate.begin()

    # In the background

    def ask(self) -> None:
        """Have the thread look for something to heal."""
        self._worker.ask(partial(_heal, weakref.ref(self)))

    def _step(self, interrupt: Interrupt) -> bool:
        """Run one pass for the entry whose turn it is. Needs the model's lock. Returns whether there was one.

        Raises:
            CallWaits: a call waits. The pass is run again when no call does.
        """
        try:
            candidate = self._turn()
        except Exception as error:  # as below. What waits stays, and is looked at again when the next call asks
            with self._lock:
                self._counts["failed"] += 1
            self._record_error(error, "Healing failed")
            return False
        if candidate is None:
            return False
        try:
            with self.numerics(candidate.autocast):
                fresh = self.rows_of(candidate, interrupt)
                if not fresh.complete:
                    fresh.advance(len(fresh.ids), interrupt)
            if fresh.complete and self._turn() is candidate:  # nothing has changed while the last pass ran
                self.complete(candidate)
        except CallWaits:
            raise
        except CopyLost:
            self._put_back(candidate)
        except (NoRoom, torch.OutOfMemoryError):
            self._leave(candidate, "refused")
        except Exception as error:  # any error: users must hear of it, and the thread must live on
            self._leave(candidate, "failed")
            self._record_error(error, "Healing failed")
        return True

    def _turn(self) -> Candidate | None:
        """The candidate whose rows are under way, or the next one. None: none is to be healed now."""
        with self._lock:
            self._prune()
            settings = {candidate.autocast for candidate in self._order.open}
        if self._prefill.model.training:  # somebody trains it, in whose way an evaluating pass would be
            return None
        present = {of_call: self._identity(of_call) for of_call in settings}

        def fits(candidate: Candidate) -> bool:
            """The very entry is in the pool, and the present weights and numerics computed it."""
            entry = candidate.entry()
            return entry is not None and entry.weights == present.get(candidate.autocast) and self._pool.has(entry)

        with self._lock:
            current = self._current
            if current is not None and not (current in self._order.open and fits(current)):
                self._put_back(current)
            self._current = self._current or self._order.best(fits)
            return self._current

    def _identity(self, of_call: Autocast) -> str:
        with computing(self._prefill.model, of_call):
            return self._weights.identity()

    @contextmanager
    def numerics(self, of_call: Autocast) -> Iterator[None]:
        """Compute as the call did whose rows these are."""
        with autocast.OFF.applied():
            self._prefill.follow(self._weights.structure)
        with computing(self._prefill.model, of_call), self._prefill.attention():
            yield

    def rows_of(
        self, candidate: Candidate, interrupt: Interrupt, *, from_scratch: bool = False, capacity: int = 0
    ) -> FreshRows:
        """The rows of a candidate as far as they are computed; see :meth:`FreshRows.begin`."""
        fresh = self._fresh.get(candidate)
        if fresh is None:
            entry = candidate.entry()
            if entry is None:
                raise CopyLost
            fresh = FreshRows.begin(
                self._pool, self._prefill, entry, interrupt, from_scratch=from_scratch, capacity=capacity
            )
            with self._lock:
                self._fresh[candidate] = fresh
                self._order.charge(candidate)
        return fresh

    def complete(self, candidate: Candidate) -> None:
        """Let the rows, which are all there, replace the entry's, and tell its call's report."""
        fresh = self._fresh[candidate]
        with computing(self._prefill.model, candidate.autocast):
            replaced = fresh.replace()
        if not replaced:
            self._leave(candidate, "gone")
            return
        rows = len(fresh.ids) - fresh.start
        with self._lock:
            del self._fresh[candidate]
            self._order.remove(candidate)
            self._current = None if self._current is candidate else self._current
            self._counts.update(healed=1, rows=rows, wasted_rows=fresh.computed - rows)
        for listener in candidate.finish():
            try:
                listener(candidate.rows)
            except Exception as error:  # of the listener: the others must still be called
                self._record_error(error, "A listener failed")

    def _put_back(self, candidate: Candidate) -> None:
        """Give up what was computed for a candidate. It may have its turn again."""
        with self._lock:
            fresh = self._fresh.pop(candidate, None)
            if fresh is not None:
                fresh.give_up()
                self._counts["wasted_rows"] += fresh.computed
            self._current = None if self._current is candidate else self._current

    def release(self, candidate: Candidate) -> None:
        """A check no longer computes the rows of a candidate."""
        with self._lock:
            candidate.claimed = False
            self._put_back(candidate)
            waits = candidate in self._order
        if waits:
            self.ask()

    def _leave(self, candidate: Candidate, reason: str) -> None:
        """A candidate is not healed after all."""
        with self._lock:
            self._put_back(candidate)
            self._order.remove(candidate)
            self._counts[reason] += 1
            candidate.abandon()

    def _prune(self) -> None:
        """Forget the candidates whose entries have left the pool."""
        for candidate in self._order.every:
            if candidate.entry() is None and not candidate.claimed:
                self._leave(candidate, "gone")

    def _record_error(self, error: Exception, what: str) -> None:
        with self._lock:
            self._errors.append("".join(traceback.format_exception(error)))
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{what}: {type(error).__name__}. engine.healing.errors has the traceback. There is no other warning.",
                QualityWarning,
                stacklevel=2,
            )

    def _after_fork(self) -> None:
        """A forked child heals what it stores itself. What was under way is the parent's."""
        for fresh in self._fresh.values():
            fresh.give_up()
        self._fresh.clear()
        self._order.clear()
        self._current = None


def _abandon(order: HealingOrder) -> None:
    """An engine is gone, and what it had still to heal: nobody waits for that any more."""
    for candidate in order.every:
        candidate.abandon()


def _heal(healing: weakref.ref[Healing]) -> None:
    """Heal until nothing is left. Between two passes this holds neither the engine nor its pool."""

    def unwanted() -> bool:
        this = healing()
        return this is None or this._worker.closed

    while not unwanted():
        this = healing()
        if this is None or this._settings is None:
            return
        lock, worker, share = this._model_lock, this._worker, this._settings.share
        this = None  # the wait may be long
        started, found = time.perf_counter(), False
        try:
            with lock.when_idle(unwanted) as interrupt:
                started = time.perf_counter()
                this = healing()
                found = this is not None and this._step(interrupt)
        except CallWaits:
            found = True
        if this is not None:
            this._seconds += time.perf_counter() - started
        this = None
        if not found:
            return
        worker.pause((time.perf_counter() - started) * (1 - share) / share)
