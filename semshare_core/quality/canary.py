"""The canary: it compares some calls with a full prefill afterwards, in the background, while no other call waits."""

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
from semshare_core.errors import NotPicklableError, NumericalError, QualityWarning
from semshare_core.model.attention.grouped import grouped_attention
from semshare_core.model.computing import computing
from semshare_core.model.lock import ModelLock
from semshare_core.model.weights import Weights
from semshare_core.process import forking
from semshare_core.process.interrupt import Interrupt
from semshare_core.process.worker import Worker
from semshare_core.quality.canary_registry import REGISTRY, Listener
from semshare_core.quality.divergence import Divergence
from semshare_core.quality.promises import Promises, Tally
from semshare_core.quality.replay import Replay
from semshare_core.report import Canary, ReuseReport

_MAX_WAITING = 2  # each check holds a copy of its prompt's rows
_REMEMBERED_RESULTS = 1000
_REMEMBERED_ERRORS = 20


@dataclass(frozen=True)
class CanaryCounts:
    """How many of the calls that the canary chose are in which state.

    Attributes:
        unneeded: lossless calls, which keep their level's promise without a measurement.
        pending: the check waits or runs.
        measured: the check is in the results.
        dropped: too many checks were waiting, the engine was closed, or the model's weights have changed since.
        failed: the check ended in an error.
    """

    unneeded: int = 0
    pending: int = 0
    measured: int = 0
    dropped: int = 0
    failed: int = 0


class CanaryWatch:
    """The canary of one engine, and its results. Thread-safe.

    >>> engine = SemShareEngine(model, tokenizer, policy=ReusePolicy(level="balanced", canary=0.01))
    >>> engine.canary.wait(), engine.canary.results()[-1].kl
    """

    def __init__(self, model: PreTrainedModel, lock: ModelLock, seed: int, weights: Weights) -> None:
        self._model = model
        self._weights = weights
        self._model_lock = lock
        self._random = random.Random(seed)
        self._worker = Worker("semshare-canary", room=_MAX_WAITING)
        self._promises = Promises()
        self._lock = forking.whole(threading.Lock())
        self._counts: Counter[str] = Counter()
        self._results: deque[Canary] = deque(maxlen=_REMEMBERED_RESULTS)
        self._errors: deque[str] = deque(maxlen=_REMEMBERED_ERRORS)
        self._warned = False
        self._listeners: list[Listener] = []
        forking.renewed(self._after_fork)

    # For users

    def results(self) -> list[Canary]:
        """The last thousand measured checks, oldest first."""
        with self._lock:
            return list(self._results)

    def counts(self) -> CanaryCounts:
        """How many chosen calls are in which state."""
        with self._lock:
            return CanaryCounts(**self._counts)

    def tallies(self) -> list[Tally]:
        """How the promises were kept, by requested level, served level and method."""
        return self._promises.tallies()

    def served_level(self, level: str) -> str:
        """The level at which calls for ``level`` are served now: a stricter one if its promise was broken too often.

        This holds for policies with the calibrated method. Every other method (``Tally.method``) has its own promise.
        """
        return self._promises.served_level(level)

    @property
    def errors(self) -> list[str]:
        """The last tracebacks of failed checks and failed listeners."""
        with self._lock:
            return list(self._errors)

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call ``listener`` with every finished :class:`~semshare_core.Canary`, in the thread that finished it.

        Returns:
            A function that ends the listening.
        """
        return REGISTRY.listen(self._listeners, listener)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until all checks are finished, at most ``timeout`` seconds. Returns whether they are."""
        return self._worker.wait(timeout)

    def reset(self) -> None:
        """Forget results, counts and errors. Every level is served as requested again."""
        self._promises.reset()
        with self._lock:
            self._results.clear()
            self._errors.clear()
            pending = self._counts["pending"]
            self._counts = Counter(pending=pending)
            self._warned = False

    def close(self) -> None:
        """Drop the waiting checks, end the running one, and accept no more."""
        self._worker.close()

    # For the engine

    def served(self, goal: Goal) -> Goal:
        """``goal``, made stricter where its level's promise was broken too often."""
        return self._promises.served(goal)

    def chooses(self, share: float) -> bool:
        """Draw whether the canary takes a call. It takes ``share`` of all calls."""
        with self._lock:
            return share > 0 and self._random.random() < share

    @property
    def has_room(self) -> bool:
        """Whether another check may wait. If not, the caller need not copy the call's rows."""
        return self._worker.has_room

    def check(self, report: ReuseReport, goal: Goal, replay: Replay | None) -> None:
        """Check a chosen call in the background; ``report.canary`` gets the result.

        Args:
            goal: the one that the caller requested.
            replay: the call's copy. None drops the check, because there was no room for a copy.
        """
        canary = _new_canary(report, goal)
        report.canary = canary
        REGISTRY.begin(canary)
        with self._lock:
            self._counts["pending"] += 1
        check = _Check(self, report, canary, replay)
        if replay is None:
            check.drop()
        else:
            self._worker.ask(check.run, check.drop)

    def count_lossless(self, report: ReuseReport, goal: Goal) -> None:
        """Count a chosen lossless call, which keeps its promise.

        While no check may wait, lossless calls are not counted either. Otherwise a busy engine would count only calls
        that keep the promise.
        """
        with self._lock:
            self._counts["unneeded"] += 1
        if goal.promised and self.has_room:
            self._promises.count(_new_canary(report, goal).model_copy(update={"kl": 0.0, "broken": False}))

    def __reduce__(self) -> NoReturn:
        raise NotPicklableError("an engine's canary cannot be pickled or copied: results() and tallies() can.")

    def _after_fork(self) -> None:
        """A forked child drops the pending checks: the parent does them."""
        self._counts["dropped"] += self._counts.pop("pending", 0)

    # For the checks

    def _measure(self, replay: Replay) -> Divergence:
        return replay.measure(self._model, partial(self._one_pass, replay))

    @contextmanager
    def _one_pass(self, replay: Replay) -> Iterator[Interrupt]:
        if self._worker.closed:
            raise _Abandoned
        idle = self._model_lock.when_idle(lambda: self._worker.closed)
        with idle as interrupt, computing(self._model, replay.autocast):
            if self._weights.identity() != replay.weights:
                raise _Abandoned
            with grouped_attention(self._model):
                yield interrupt

    def _finish(self, report: ReuseReport, canary: Canary) -> None:
        report.canary = canary
        stricter = self._promises.count(canary) if canary.status == "measured" else None
        with self._lock:
            self._counts["pending"] -= 1
            self._counts[canary.status] += 1
            if canary.status == "measured":
                self._results.append(canary)
            listeners = REGISTRY.finish(canary, self._listeners)
        for listener in listeners:
            try:
                listener(canary)
            except Exception as error:  # of the listener: the other listeners must still be called
                self._record_error(error, "A listener of the canary failed")
        if stricter is not None:
            self._warn_of(stricter)

    def _record_error(self, error: Exception, what: str) -> None:
        with self._lock:
            self._errors.append("".join(traceback.format_exception(error)))
            first, self._warned = not self._warned, True
        if first:
            warnings.warn(
                f"{what}: {type(error).__name__}. engine.canary.errors has the traceback. The next warning comes only "
                "after engine.canary.reset().",
                QualityWarning,
                stacklevel=2,
            )

    def _warn_of(self, tally: Tally) -> None:
        bound = BOUNDS[tally.level]
        now = self._promises.served_level(tally.level, tally.method)
        method = f" with {tally.method}" if tally.method else ""
        remedy = "Use the calibrated settings" if method else "Calibrate the model (semshare calibrate)"
        warnings.warn(
            f"Level {tally.level!r}{method} promises that at most {bound.share:.0%} of calls have a KL of more than "
            f"{bound.kl} to the full prefill, but {tally.broken} of {tally.checked} checked calls had (mean "
            f"{tally.mean_kl:.3f}, largest {tally.max_kl:.3f}; served at {tally.served_level!r}). From now on such "
            f"calls are served at {now!r}. {remedy}, or ask for a stricter level; engine.canary.reset() goes back.",
            QualityWarning,
            stacklevel=2,
        )


def _new_canary(report: ReuseReport, goal: Goal) -> Canary:
    """A pending check of a call that requested ``goal``."""
    return Canary(
        id=uuid.uuid4().hex,
        level=goal.level,
        served_level=report.served_level,
        method=goal.method,
        bound=BOUNDS[goal.level].kl if goal.promised else None,
    )


class _Abandoned(Exception):
    """The engine is closed, or the weights to compare with are gone."""


class _Check:
    """One job in the background. It frees the call's rows as soon as it ends."""

    def __init__(self, watch: CanaryWatch, report: ReuseReport, canary: Canary, replay: Replay | None) -> None:
        self._watch = watch
        self._report = report
        self._canary = canary
        self._replay = replay

    def run(self) -> None:
        assert self._replay is not None
        replay, self._replay = self._replay, None
        try:
            measured = self._measured(self._watch._measure(replay))
        except _Abandoned:
            self.drop()
            return
        except Exception as error:  # any error: users must hear of it, and the thread must live on
            self._end("failed")
            self._watch._record_error(error, "A check of the canary failed")
            return
        finally:
            replay.release()
            del replay
        self._watch._finish(self._report, measured)

    def drop(self) -> None:
        if self._replay is not None:
            self._replay.release()
        self._replay = None
        self._end("dropped")

    def _end(self, status: str) -> None:
        self._watch._finish(self._report, self._canary.model_copy(update={"status": status}))

    def _measured(self, divergence: Divergence) -> Canary:
        kl, bound = float(divergence.kl.mean()), self._canary.bound
        if math.isnan(kl):
            raise NumericalError("the full prefill's logits are not numbers, so nothing can be compared with them.")
        result = {
            "status": "measured",
            "tokens": len(divergence.kl),
            "kl": kl,
            "agreement": float(divergence.agree.mean()),
            "broken": None if bound is None else kl > bound,
        }
        return self._canary.model_copy(update=result)
