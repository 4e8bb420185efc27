"""The canary: some calls are compared with a full prefill afterwards, in the background, while no other call waits."""

from __future__ import annotations

import math
import random
import threading
import traceback
import uuid
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import NoReturn

from transformers import PreTrainedModel

from semshare_core.budget.goal import Goal
from semshare_core.budget.levels import BOUNDS
from semshare_core.config import ReusePolicy
from semshare_core.errors import NotPicklableError, NumericalError, QualityWarning
from semshare_core.model.attention.grouped import grouped_attention
from semshare_core.model.computing import computing
from semshare_core.model.lock import ModelLock
from semshare_core.model.weights import Weights
from semshare_core.process import forking
from semshare_core.process.worker import Worker
from semshare_core.quality import canary_registry
from semshare_core.quality.divergence import Divergence
from semshare_core.quality.promises import Promises, Tally
from semshare_core.quality.replay import Replay
from semshare_core.report import Canary, ReuseReport

_WAITING_CHECKS = 2  # each holds a copy of its prompt's rows
_REMEMBERED_RESULTS = 1000
_REMEMBERED_ERRORS = 20


@dataclass(frozen=True)
class CanaryCounts:
    """Of the calls that the canary chose.

    Attributes:
        unneeded: lossless, so that there was nothing to measure: they keep their level's promise.
        pending: still to be measured.
        measured: done, and in the results.
        dropped: too many checks were waiting, the engine was closed, or the model has other weights by now.
        failed: ended in an error.
    """

    unneeded: int = 0
    pending: int = 0
    measured: int = 0
    dropped: int = 0
    failed: int = 0


class CanaryWatch:
    """What the canary of one engine found. Thread-safe.

    >>> engine = SemShareEngine(model, tokenizer, policy=ReusePolicy(level="balanced", canary=0.01))
    >>> engine.canary.wait(), engine.canary.results()[-1].kl
    """

    def __init__(self, model: PreTrainedModel, lock: ModelLock, seed: int, weights: Weights) -> None:
        self._model = model
        self._weights = weights
        self._model_lock = lock
        self._random = random.Random(seed)
        self._worker = Worker("semshare-canary", room=_WAITING_CHECKS)
        self._promises = Promises()
        self._lock = forking.whole(threading.Lock())
        self._counts: Counter[str] = Counter()
        self._results: deque[Canary] = deque(maxlen=_REMEMBERED_RESULTS)
        self._errors: deque[str] = deque(maxlen=_REMEMBERED_ERRORS)
        self._warned = False
        self._listeners: list[canary_registry.Listener] = []
        forking.renewed(self._after_fork)

    # What users ask.

    def results(self) -> list[Canary]:
        """The last thousand checks that were measured, in the order in which they were done."""
        with self._lock:
            return list(self._results)

    def counts(self) -> CanaryCounts:
        """What became of the calls that were chosen."""
        with self._lock:
            return CanaryCounts(**self._counts)

    def tallies(self) -> list[Tally]:
        """How the promises were kept, by level asked for, level served at and method."""
        return self._promises.tallies()

    def served_level(self, level: str) -> str:
        """What calls that ask for ``level`` are served at now: a stricter level if its promise was broken too often.

        Of policies that leave the method as it is: every other method (``Tally.method``) has a promise of its own.
        """
        return self._promises.served_level(level)

    @property
    def errors(self) -> list[str]:
        """Tracebacks of the last checks and listeners that failed."""
        with self._lock:
            return list(self._errors)

    def listen(self, listener: canary_registry.Listener) -> Callable[[], None]:
        """Call ``listener`` with every :class:`~semshare_core.report.Canary` that is done, in the thread that checks.

        One that is dropped is told of in the thread that dropped it.

        Returns:
            A function that ends it.
        """
        with self._lock:
            self._listeners.append(listener)

        def end() -> None:
            with self._lock:
                if listener in self._listeners:
                    self._listeners.remove(listener)

        return end

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all checks are done, at most ``timeout`` seconds; whether they are."""
        return self._worker.wait(timeout)

    def reset(self) -> None:
        """Forget results, counts and errors, and serve every level as it is asked for again."""
        self._promises.reset()
        with self._lock:
            self._results.clear()
            self._errors.clear()
            pending = self._counts["pending"]
            self._counts = Counter(pending=pending)
            self._warned = False

    def close(self) -> None:
        """Drop the checks that wait, end the one that runs, and take no more."""
        self._worker.close()

    # What the engine asks.

    def served(self, policy: ReusePolicy) -> ReusePolicy:
        """``policy`` as calls are served under it now."""
        return self._promises.served(policy)

    def chooses(self, share: float) -> bool:
        """Whether a call is one of ``share`` of all calls, which are to be checked if they are not lossless."""
        with self._lock:
            return share > 0 and self._random.random() < share

    @property
    def has_room(self) -> bool:
        """Whether another check may wait; if not, no copy of its rows need be made."""
        return self._worker.has_room

    def check(self, report: ReuseReport, policy: ReusePolicy, replay: Replay | None) -> None:
        """Have a chosen call checked, and ``report.canary`` tell of it.

        Args:
            policy: as it was asked for.
            replay: None: there was no room for another check.
        """
        canary = _begun(report, policy)
        report.canary = canary
        canary_registry.announce(canary)
        with self._lock:
            self._counts["pending"] += 1
        check = _Check(self, report, canary, replay)
        if replay is None:
            check.drop()
        else:
            self._worker.ask(check.run, check.drop)

    def spare(self, report: ReuseReport, policy: ReusePolicy) -> None:
        """Count a chosen call that is lossless: a promise is one about all calls.

        Where a check would have been dropped it is no evidence either; otherwise a busy engine would count kept calls
        only.
        """
        with self._lock:
            self._counts["unneeded"] += 1
        if Goal(policy).promised and self.has_room:
            self._promises.count(_begun(report, policy).model_copy(update={"kl": 0.0, "broken": False}))

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError("an engine's canary cannot be pickled or copied: results() and tallies() can.")

    def _after_fork(self) -> None:
        """In a forked child the checks that were under way are left undone: the parent does them."""
        self._counts["dropped"] += self._counts.pop("pending", 0)

    # What checks do.

    def _measure(self, replay: Replay) -> Divergence:
        return replay.measure(self._model, partial(self._turn, replay))

    @contextmanager
    def _turn(self, replay: Replay) -> Iterator[None]:
        with self._model_lock.when_idle(), computing(self._model, replay.autocast):
            if self._worker.closed or self._weights.identity() != replay.weights:
                raise _Closed
            with grouped_attention(self._model):
                yield

    def _conclude(self, report: ReuseReport, canary: Canary) -> None:
        report.canary = canary
        stricter = self._promises.count(canary) if canary.status == "measured" else None
        with self._lock:
            self._counts["pending"] -= 1
            self._counts[canary.status] += 1
            if canary.status == "measured":
                self._results.append(canary)
            listeners = [*canary_registry.conclude(canary), *self._listeners]
        for listener in listeners:
            try:
                listener(canary)
            except Exception as error:  # a listener's own: others are still to be told
                self._note(error, "A listener of the canary failed")
        if stricter is not None:
            self._warn_of(stricter)

    def _note(self, error: Exception, what: str) -> None:
        with self._lock:
            self._errors.append("".join(traceback.format_exception(error)))
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{what}: {type(error).__name__}. engine.canary.errors has the traceback; there is no further warning "
                "until engine.canary.reset().",
                QualityWarning,
                stacklevel=2,
            )

    def _warn_of(self, tally: Tally) -> None:
        bound = BOUNDS[tally.level]
        now = self._promises.served_level(tally.level, tally.method)
        method = f" with {tally.method}" if tally.method else ""
        remedy = "Leave these settings as they are calibrated" if method else "Calibrate the model (semshare calibrate)"
        warnings.warn(
            f"Level {tally.level!r}{method} promises that at most {bound.share:.0%} of calls have a KL of more than "
            f"{bound.kl} to the full prefill, but {tally.broken} of {tally.checked} checked calls had (mean "
            f"{tally.mean_kl:.3f}, largest {tally.max_kl:.3f}; served at {tally.served_level!r}). From now on such "
            f"calls are served at {now!r}. {remedy}, or ask for a stricter level; engine.canary.reset() goes back.",
            QualityWarning,
            stacklevel=2,
        )


def _begun(report: ReuseReport, policy: ReusePolicy) -> Canary:
    """The check of a call that asked for ``policy``, of which nothing is known yet."""
    goal = Goal(policy)
    return Canary(
        id=uuid.uuid4().hex,
        level=goal.level,
        served_level=report.served_level,
        method=goal.method,
        bound=BOUNDS[goal.level].kl if goal.promised else None,
    )


class _Closed(Exception):
    """The engine goes, and does not wait for a check; or the weights to compare with are gone."""


class _Check:
    """One check; it forgets prompt and rows as soon as it is done."""

    def __init__(self, watch: CanaryWatch, report: ReuseReport, canary: Canary, replay: Replay | None) -> None:
        self._watch = watch
        self._report = report
        self._canary = canary
        self._replay = replay

    def run(self) -> None:
        assert self._replay is not None
        replay, self._replay = self._replay, None
        try:
            found = self._watch._measure(replay)
            done = self._measured(found)
        except _Closed:
            self.drop()
            return
        except Exception as error:  # whatever it is: it must be heard of, and the thread live on
            self._end("failed")
            self._watch._note(error, "A check of the canary failed")
            return
        finally:
            del replay
        self._watch._conclude(self._report, done)

    def drop(self) -> None:
        self._replay = None
        self._end("dropped")

    def _end(self, status: str) -> None:
        self._watch._conclude(self._report, self._canary.model_copy(update={"status": status}))

    def _measured(self, found: Divergence) -> Canary:
        kl, bound = float(found.kl.mean()), self._canary.bound
        if math.isnan(kl):
            raise NumericalError(
                "the full prefill's logits are not numbers, so that nothing can be compared with them."
            )
        told = {
            "status": "measured",
            "tokens": len(found.kl),
            "kl": kl,
            "agreement": float(found.agree.mean()),
            "broken": None if bound is None else kl > bound,
        }
        return self._canary.model_copy(update=told)
