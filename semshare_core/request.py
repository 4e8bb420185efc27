"""One request: plan() → prefill() → decode() → commit().

Each stage passes its result to the next: a :class:`RequestPlan`, a :class:`PrefilledRequest`, the decoded answer. No
stage leaves anything in the model or in the runtime, so several requests may be in flight. The stages that run the
model need its lock.
"""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from semshare_core.budget.account import LOSSLESS, Limits
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.goal import Goal, Mode
from semshare_core.budget.governor import UNCALIBRATED, Decision, decide, plan_features
from semshare_core.commit import commit
from semshare_core.compress.live.compressed import compressed, compressor_for
from semshare_core.config import ReusePolicy
from semshare_core.decode.generate import Decoded, check_logits, decode
from semshare_core.decode.sampling import SamplingParams
from semshare_core.embed.prompt_vectors import NO_VECTORS
from semshare_core.errors import ConfigError, DamagedFileError, DeviceMemoryError, PoolWarning
from semshare_core.lookup.explain import explain
from semshare_core.lookup.find import Lookup, find
from semshare_core.lookup.search import Query
from semshare_core.match.plan import ReusePlan
from semshare_core.model import autocast
from semshare_core.model.attention.bit_blocks import block_of
from semshare_core.model.computing import computing
from semshare_core.model.support import vocabulary_size
from semshare_core.pool import Entry
from semshare_core.prefill.cache import InterruptibleCache, to_torch
from semshare_core.prefill.captured_steps import captured_steps
from semshare_core.prefilled import PrefilledRequest, RequestPlan
from semshare_core.process.interrupt import NEVER, Interrupt
from semshare_core.prompt.encode import EncodedPrompt, Prompt, encode
from semshare_core.quality.uncalibrated import warn_once
from semshare_core.report import ReuseReport
from semshare_core.report.reasons import Reason
from semshare_core.runtime import Runtime
from semshare_core.select import selection_for
from semshare_core.tokens import Tokens

T = TypeVar("T")


class Request:
    """One prompt on its way through the stages.

    Attributes:
        requested: the goal that the caller requested.
        goal: the goal that serves the request. It is stricter if the level's promise was broken too often.
        encoded: the prompt's tokens, and where its question begins.
        computed_by: the identity of the weights that compute the request's rows; empty until it looks for references.
        queue_ms: the time waiting for the model; ``embed_ms``: the time of a user's encoder.
        entry: the pool's entry with the request's rows. It is a weak reference, so that the rows leave memory when the
            entry leaves the pool.
    """

    def __init__(
        self,
        runtime: Runtime,
        prompt: Prompt,
        policy: ReusePolicy,
        namespace: str,
        *,
        warming: bool = False,
        pinned: bool = False,
        interrupt: Interrupt = NEVER,
    ) -> None:
        self.arrived = time.perf_counter()
        self.arrived_at = time.time()
        self.runtime = runtime
        self.requested = Goal(policy)
        self.goal = runtime.canary.served(self.requested)
        self.namespace = namespace
        self.warming = warming
        self.pinned = pinned
        self.interrupt = interrupt
        self.computed_by = ""
        self.queue_ms = self.embed_ms = 0.0
        self.entry: weakref.ref[Entry] | None = None
        self._embedding: NDArray[np.float32] | None = None
        self._answering = False
        self.encoded: EncodedPrompt = encode(prompt, runtime.tokenizer, vocabulary_size(runtime.model), runtime.context)

    @property
    def tokens(self) -> Tokens:
        """The prompt, int64 [n]."""
        return self.encoded.ids

    def fit(self, sampling: SamplingParams) -> SamplingParams:
        """Shorten the answer so that it fits into the context."""
        room = self.runtime.context - len(self.tokens)
        return sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, room)})

    @contextmanager
    def hold_model(self, reserve: int) -> Iterator[None]:
        """Hold the model's lock. A user's encoder embeds the prompt before the wait for the lock."""
        self.interrupt.check()
        if self.runtime.vectors.foreign and (self.warming or (self._movable(reserve) and self.goal.approximates)):
            self._embed(self.tokens)
        waiting_since = time.perf_counter()
        with self.runtime.lock.hold(self.interrupt):
            self.queue_ms = 1e3 * (time.perf_counter() - waiting_since)
            self.interrupt.check()
            with computing(self.runtime.model):
                yield

    def run(self, reserve: int, use: Callable[[PrefilledRequest], T]) -> tuple[PrefilledRequest, T]:
        """Plan, prefill, and call ``use`` with the result. If stored rows are damaged, warn and do all of it again.

        So it is, once, if the device has too little memory before the first token: the pool's rows leave it.
        Rows on disk are read during the prefill, before the first token. So a second call of ``use`` does no harm.
        Needs the model's lock.

        Raises:
            DeviceMemoryError: the call needs more memory than the device has.
        """
        self.computed_by = self.runtime.identify()
        made_room = False
        while True:
            planned = self.plan(reserve)
            self.interrupt.check()
            try:
                return self._attempt(planned, use)
            except DamagedFileError as error:
                stored = [view for view in planned.lookup.used if view.stored]
                self.runtime.pool.discard(stored)
                if not stored:
                    raise
                warnings.warn(f"{error} The prompts that need it are left out.", PoolWarning, stacklevel=2)
                continue
            except torch.OutOfMemoryError as error:
                if made_room or self._answering:
                    raise DeviceMemoryError(
                        f"the device has too little memory for this call of {len(self.tokens)} tokens: shorten the "
                        f"prompt or the answer, or use a smaller model or dtype. {error}"
                    ) from error
            del planned  # what it drew on may leave, too
            self.runtime.make_room()
            made_room = True

    def _attempt(self, planned: RequestPlan, use: Callable[[PrefilledRequest], T]) -> tuple[PrefilledRequest, T]:
        """Serve the prompt once. After an error no reference to the cache is left."""
        with self._attention(planned):
            prefilled = self.prefill(planned)
            for view in planned.lookup.entries:  # the cache refers to the rows that it needs
                view.release()
            with prefilled.distrust():
                return prefilled, use(prefilled)

    # --- plan --------------------------------------------------------------------------------------------------------

    def plan(self, reserve: int) -> RequestPlan:
        """Look the prompt up and decide how much of it is recomputed. Computes no row.

        Args:
            reserve: the number of tokens that will follow the prompt.
        """
        movable = self._movable(reserve)
        if movable and self.goal.mode is not Mode.OFF:
            lookup = self.look_up()
            decision = self._decide(lookup)
            if decision.bypassed and lookup.plan.account is not None:
                lookup, decision = self._with_better_rows(lookup, decision)
            return RequestPlan(lookup, decision, movable, reserve)
        off, limit = self.goal.mode is Mode.OFF, self.runtime.movable_tokens
        reason = Reason.REUSE_OFF.text() if off else Reason.BEYOND_ROTARY_LIMIT.text(limit=limit)
        nothing = Lookup(ReusePlan.empty(len(self.tokens)), [], None, 0.0, 0.0)
        return RequestPlan(nothing, Decision(None, reason, bypassed=True), movable, reserve)

    def _with_better_rows(self, lookup: Lookup, decision: Decision) -> tuple[Lookup, Decision]:
        """Look for a plan that keeps the bound: repair an approximate prefix, or draw on lossless rows alone."""
        for attempt in (lookup.repairable, partial(self.look_up, LOSSLESS)):
            better = attempt()
            decided = self._decide(better)
            if decided.budget is not None:
                return better, decided
        return lookup, decision

    def look_up(self, limits: Limits | None = None) -> Lookup:
        """Find references for the prompt whose rows the present weights computed. Needs the model's lock.

        ``limits`` says which approximate rows may serve; default: those of the goal.
        """
        runtime = self.runtime
        self.computed_by = self.computed_by or runtime.identify()
        query = self._query  # of the caller's autocast
        with autocast.OFF.applied():
            return find(runtime.pool, query, self.goal, runtime.table, self._embed, runtime.facts, limits)

    def features(self) -> PlanFeatures | None:
        """The plan's features; None if there is nothing to reuse. Needs the model's lock."""
        return plan_features(self.look_up().plan, self.goal, self._fresh_from, self.encoded.last_answer)

    def _decide(self, lookup: Lookup) -> Decision:
        decision = Decision(None) if self.goal.mode is Mode.LOSSLESS else self._decide_approximate(lookup)
        reason = explain(decision, lookup, self.requested, self.goal, self.runtime.pool, self._query)
        return replace(decision, reason=reason)

    def _decide_approximate(self, lookup: Lookup) -> Decision:
        decision = decide(
            lookup.plan,
            self.goal,
            self._fresh_from,
            self.encoded.last_answer,
            layers=self.runtime.prefill.layers,
            calibration=self.runtime.calibration,
        )
        if decision.calibration == UNCALIBRATED and self.runtime.calibration is None:
            warn_once(self.runtime.model, self.goal.level)
        return decision

    @property
    def _query(self) -> Query:
        return Query(self.namespace, self.tokens, self.computed_by, block_of(self.runtime.model))

    @property
    def _fresh_from(self) -> int:
        """The question's first token. All tokens from there on are computed."""
        return self.encoded.fresh_from(self.goal.policy.fresh_tail)

    def _movable(self, reserve: int) -> bool:
        limit = self.runtime.movable_tokens
        return limit is None or len(self.tokens) + reserve <= limit

    def _embed(self, tokens: Tokens) -> NDArray[np.float32]:
        if self._embedding is None:
            started = time.perf_counter()
            self._embedding = self.runtime.vectors.of(tokens, self.interrupt)
            self.embed_ms = 1e3 * (time.perf_counter() - started) if self.runtime.vectors.foreign else 0.0
        return self._embedding

    # --- prefill -----------------------------------------------------------------------------------------------------

    def prefill(self, planned: RequestPlan) -> PrefilledRequest:
        """Fill a cache for the prompt, with room for the reserved tokens. Needs the model's lock.

        The first decoding step computes the rest: the last token, or the last pass of a lossless prefill.
        """
        runtime, n = self.runtime, len(self.tokens)
        ids = to_torch(self.tokens, runtime.model.device)
        compressor = compressor_for(self.goal.policy) if n > 1 and self.goal.approximates else None
        started = time.perf_counter()
        recompute = planned.decision.recompute
        if recompute is None:
            planned = planned.prefix_only()
            prefilled = runtime.prefill.prefill_suffix(
                ids,
                planned.lookup.plan,
                planned.lookup.entries,
                n + planned.reserve,
                complete=compressor is not None,
                interrupt=self.interrupt,
            )
        else:
            prefilled = runtime.prefill.selective(
                ids,
                planned.lookup.plan,
                planned.lookup.entries,
                recompute,
                selection_for(self.goal.policy),
                n + planned.reserve,
                interrupt=self.interrupt,
            )
        cache: InterruptibleCache = prefilled.cache
        if compressor is not None:
            cache = compressed(compressor, runtime.model, runtime.prefill.spec, ids, prefilled.cache)
        return PrefilledRequest(self, planned, ids, prefilled, cache, started)

    def _attention(self, planned: RequestPlan) -> AbstractContextManager[None]:
        """The attention for rows that follow other rows. A prompt that stands alone does not need it."""
        alone = planned.decision.recompute is None and self.runtime.prefill.stands_alone(planned.lookup.plan)
        return nullcontext() if alone else self.runtime.prefill.attention()

    # --- decode and commit -------------------------------------------------------------------------------------------

    def logits(self, prefilled: PrefilledRequest) -> Tensor:
        """Logits [vocabulary] of the next token. Computes the pending rows into the cache. Needs the model's lock.

        Raises:
            NumericalError: the logits are not numbers.
        """
        logits = self.runtime.prefill.last_logits(prefilled.cache, prefilled.ids, prefilled.pending)
        check_logits(logits)
        return logits

    def decode(
        self, prefilled: PrefilledRequest, sampling: SamplingParams, on_token: Callable[[int], None] | None = None
    ) -> Decoded:
        """Generate the answer. Needs the model's lock."""
        runtime = self.runtime

        def told(token: int) -> None:
            self._answering = True
            if on_token is not None:
                on_token(token)

        with captured_steps(runtime.model, runtime.prefill.captured, prefilled.cache):
            return decode(
                runtime.model,
                runtime.tokenizer,
                prefilled.cache,
                prefilled.ids,
                sampling,
                interrupt=self.interrupt,
                on_token=told,
            )

    def commit(
        self,
        prefilled: PrefilledRequest,
        first_token_at: float,
        generated: list[int],
        *,
        store: bool,
        copy: bool = False,
    ) -> tuple[ReuseReport, Callable[[], None]]:
        """See :func:`semshare_core.commit.commit`."""
        return commit(prefilled, first_token_at, generated, store=store, copy=copy)

    def embed_entry(self) -> None:
        """Embed the stored entry with a user's encoder, so that similar prompts find it. Needs no lock.

        If the request must end now, or the encoder fails, the prompt's embedding stands for the whole entry.
        """
        vectors, prompt = self.runtime.vectors, self._embedding
        entry = self.entry() if self.entry is not None else None
        if self.entry is None or entry is None or not vectors.foreign or (prompt is not None and not len(prompt)):
            return
        tokens = entry.tokens
        del entry  # the encoder may take long, and the entry may leave the pool meanwhile
        whole = NO_VECTORS if self.interrupt.due else vectors.of_kept(tokens, self.interrupt)
        entry = self.entry()
        if entry is None:
            return
        try:
            self.runtime.pool.embed(entry, prompt if prompt is not None and not len(whole) else whole)
        except ConfigError as error:  # a vector of another length than the pool's; the answer must not be lost
            vectors.warn(error)
