"""One call on its way through the rooms: look up, match, decide, prefill; report and keep afterwards."""

from __future__ import annotations

import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase
from transformers.cache_utils import Cache

from semshare_core.budget.calibration import Calibration
from semshare_core.budget.features import PlanFeatures
from semshare_core.budget.governor import UNCALIBRATED, Decision, decide, plan_features
from semshare_core.budget.levels import bound_of, level_of
from semshare_core.compress.retention import retain
from semshare_core.config import ReusePolicy
from semshare_core.decode.sampling import SamplingParams
from semshare_core.embed.prompt_vectors import NO_VECTORS, PromptVectors
from semshare_core.errors import (
    CallCancelledError,
    CallTimeoutError,
    ConfigError,
    DamagedFileError,
    NumericalError,
    PoolWarning,
    UnsupportedModelError,
)
from semshare_core.lookup import Found, find, searches
from semshare_core.match.facts import FactTokens
from semshare_core.match.plan import ReusePlan, Source, Tokens
from semshare_core.match.prefix import common_prefix
from semshare_core.match.token_table import TokenTable
from semshare_core.model import autocast
from semshare_core.model.attention.bit_blocks import block_of, whole_blocks
from semshare_core.model.attention.grouped import grouped_attention, uses_sdpa
from semshare_core.model.computing import computing
from semshare_core.model.lock import ModelLock
from semshare_core.model.support import vocabulary_size
from semshare_core.model.weights import Weights
from semshare_core.pool import Entry, ReferencePool
from semshare_core.prefill.attention_probe import tail_attention
from semshare_core.prefill.cache import InterruptibleCache, kv_bytes, to_torch
from semshare_core.prefill.selective import Prefilled, SelectivePrefill
from semshare_core.process.interrupt import NEVER, Interrupt
from semshare_core.prompt.encode import EncodedPrompt, Prompt, encode
from semshare_core.prompt.retokenize import retokenized
from semshare_core.quality.uncalibrated import say_once
from semshare_core.report import Outcome, ReuseReport

T = TypeVar("T")


class Call:
    """What one call needs of the engine, with its prompt encoded: asked for under one policy, served under another."""

    def __init__(
        self,
        *,
        prompt: Prompt,
        asked: ReusePolicy,
        policy: ReusePolicy,
        namespace: str,
        arrived: float,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        context: int,
        pool: ReferencePool,
        prefill: SelectivePrefill,
        table: TokenTable,
        vectors: PromptVectors,
        facts: FactTokens,
        weights: Weights,
        calibration: Calibration | None = None,
        pinned: bool = False,
        warming: bool = False,
        interrupt: Interrupt = NEVER,
    ) -> None:
        self.asked = asked
        self.policy = policy
        self.namespace = namespace
        self.arrived = arrived
        self.arrived_at = time.time() - (time.perf_counter() - arrived)
        self.model = model
        self.tokenizer = tokenizer
        self.context = context
        self.pool = pool
        self.prefill = prefill
        self.table = table
        self.vectors = vectors
        self.facts = facts
        self.weights = weights
        self.computed_by = ""  # set when the call has its turn
        self.calibration = calibration
        self.pinned = pinned
        self.interrupt = interrupt
        self.warming = warming
        self.queue_ms = self.embed_ms = 0.0  # waited for the model; for foreign code to embed the prompt
        self.kept: weakref.ref[Entry] | None = None  # weakly: should it leave the pool, its rows leave memory
        self._embedding: NDArray[np.float32] | None = None
        self.encoded: EncodedPrompt = encode(prompt, tokenizer, vocabulary_size(model), context)

    def fit(self, sampling: SamplingParams) -> SamplingParams:
        """Shorten the answer to what the context has room for."""
        room = self.context - len(self.encoded.ids)
        return sampling.model_copy(update={"max_new_tokens": min(sampling.max_new_tokens, room)})

    @contextmanager
    def turn(self, lock: ModelLock, reserve: int) -> Iterator[None]:
        """The model for this call alone. Before it waits, foreign code is asked what it has to say of the prompt."""
        self.interrupt.check()
        if self.vectors.foreign and (self.warming or (self._movable(reserve) and searches(self.policy))):
            self._embed(self.encoded.ids)
        asked = time.perf_counter()
        with lock.hold(self.interrupt):
            self.queue_ms = 1e3 * (time.perf_counter() - asked)
            self.interrupt.check()
            with computing(self.model):
                yield

    def embed_kept(self) -> None:
        """After the model's turn: where foreign code embeds, what was kept is found by its likeness from now on, too.

        A call that must end now, or whose encoder fails, does not wait for the answer's part: the prompt's must do.
        """
        prompt, kept = self._embedding, self.kept() if self.kept is not None else None
        if kept is None or not self.vectors.foreign or (prompt is not None and not len(prompt)):
            return
        tokens = kept.tokens
        del kept
        whole = NO_VECTORS if self.interrupt.due else self.vectors.of_kept(tokens, self.interrupt)
        vectors = prompt if prompt is not None and not len(whole) else whole
        assert self.kept is not None
        kept = self.kept()
        if kept is None:
            return
        try:
            self.pool.embed(kept, vectors)
        except ConfigError as error:  # of another length than those in the pool; the answer must not be lost for it
            self.vectors.warn(error)

    def answer(self, reserve: int, use: Callable[[Served], T]) -> tuple[Served, T]:
        """Serve the prompt and let ``use`` compute from it; once more, with a warning, where stored rows are damaged.

        Rows on disk are read while the prompt is computed, before its first token is out, so ``use`` may be called
        again.
        """
        self._see_weights()
        while True:
            found, movable = self._find(reserve)
            decision = self._decide(found, movable)
            self.interrupt.check()
            try:
                return self._attempt(found, decision, movable, reserve, use)
            except DamagedFileError as error:
                if not self._discard_stored(found):
                    raise
                warnings.warn(f"{error} The prompts that need it are left out.", PoolWarning, stacklevel=2)

    def _see_weights(self) -> None:
        """What computes now. Needs the model's lock."""
        self.computed_by = self.weights.identity()
        with autocast.OFF.again():
            self.prefill.follow(self.weights.structure)

    def _attempt(
        self, found: Found, decision: Decision, movable: bool, reserve: int, use: Callable[[Served], T]
    ) -> tuple[Served, T]:
        """Serve the prompt once. Should it fail, its cache is gone before another is made."""
        with self._attention(found, decision):
            served = self._serve(found, decision, movable, reserve)
            for view in found.entries:  # the cache holds the rows of what it still has to lay
                view.release()
            with served.distrust():
                return served, use(served)

    def _discard_stored(self, found: Found) -> bool:
        """The references drawn on whose rows are on disk leave the pool; False if there are none."""
        stored = [view for view in found.used if view.stored]
        self.pool.discard(stored)
        return bool(stored)

    def _find(self, reserve: int) -> tuple[Found, bool]:
        """What the pool has for the prompt, and whether the model's rows may stand elsewhere at all."""
        movable = self._movable(reserve)
        if self.policy.level != "off" and movable:
            return self.look_up(), movable
        return Found(ReusePlan.empty(len(self.encoded.ids)), [], None, None, 0.0, 0.0), movable

    def _movable(self, reserve: int) -> bool:
        limit = self.prefill.spec.static_until
        return limit is None or len(self.encoded.ids) + reserve <= limit

    def look_up(self) -> Found:
        """What the pool has for the prompt under the policy, of the weights that would compute it now."""
        with autocast.OFF.again():
            return find(
                self.pool,
                self.namespace,
                self.encoded.ids,
                self.policy,
                self.table,
                self._embed,
                self.facts,
                weights=self.computed_by,
                block=block_of(self.model),
            )

    def _embed(self, tokens: Tokens) -> NDArray[np.float32]:
        if self._embedding is None:
            started = time.perf_counter()
            self._embedding = self.vectors.of(tokens, self.interrupt)
            self.embed_ms = 1e3 * (time.perf_counter() - started) if self.vectors.foreign else 0.0
        return self._embedding

    def _attention(self, found: Found, decision: Decision) -> AbstractContextManager[None]:
        """That of rows behind others; a prompt that stands alone is computed in one pass, where it is of no use."""
        alone = decision.budget is None and self.prefill.stands_alone(found.plan)
        return nullcontext() if alone else grouped_attention(self.model)

    def _serve(self, found: Found, decision: Decision, movable: bool, reserve: int) -> Served:
        """Fill a cache for the prompt but its last tokens, with room for ``reserve`` more. Needs the model's lock.

        What is not filled the first decoding step computes: the last token, or all that one lossless pass can hold.
        """
        n = len(self.encoded.ids)
        ids = to_torch(self.encoded.ids, self.model.device)
        retains = self.policy.retention is not None and n > 1 and self.policy.level not in ("off", "exact")
        started = time.perf_counter()
        if decision.budget is None:
            found = _prefix_only(found, lossless=decision.lossless)
            prefilled = self.prefill.exact(
                ids, found.plan, found.entries, n + reserve, complete=retains, interrupt=self.interrupt
            )
        else:
            prefilled = self.prefill.selective(
                ids,
                found.plan,
                found.entries,
                self.policy,
                decision.budget,
                self.encoded.fresh_from(self.policy.fresh_tail),
                n + reserve,
                interrupt=self.interrupt,
            )
        served = Served(self, ids, found, decision, prefilled, prefilled.cache, movable, started)
        if retains:
            served.cache = self._retain(ids, prefilled)
        return served

    def _decide(self, found: Found, movable: bool) -> Decision:
        if self.policy.level == "off":
            return Decision(None, "reuse is off", bypassed=True)
        if not movable:
            limit = self.prefill.spec.static_until
            reason = f"the rotary frequencies change beyond {limit} tokens, so rows cannot be moved"
            return Decision(None, reason, bypassed=True)
        if self.policy.level == "exact":
            return Decision(None, "" if found.plan.prefix_tokens else "nothing to reuse")
        fresh_from = self.encoded.fresh_from(self.policy.fresh_tail)
        made = decide(
            found.plan, self.policy, fresh_from, blocked_coverage=found.blocked_coverage, calibration=self.calibration
        )
        if made.calibration == UNCALIBRATED and self.calibration is None:
            say_once(self.model, level_of(self.policy))
        return made

    def features(self) -> PlanFeatures | None:
        """What the governor sees of the prompt, nothing of which is computed; None: there is nothing to reuse.

        Needs the model's lock.
        """
        self._see_weights()
        return plan_features(self.look_up().plan, self.policy, self.encoded.fresh_from(self.policy.fresh_tail))

    def _retain(self, ids: Tensor, prefilled: Prefilled) -> InterruptibleCache:
        retention = self.policy.retention
        assert retention is not None
        spec = self.prefill.spec
        if any(spec.windows) or not uses_sdpa(self.model) or not spec.observable:
            raise UnsupportedModelError(
                "retention leaves layers of different lengths, which needs full attention in every layer, "
                "attn_implementation='sdpa' and weights that can be watched; use a policy with retention=None for this "
                "model."
            )
        n_rows = len(ids) - 1
        attention = tail_attention(self.model, spec, prefilled.cache, ids, n_rows, retention.window)
        return retain(prefilled.cache, attention, retention)


@dataclass
class Served:
    """A prompt whose cache is filled but for ``pending`` last tokens: left is to decode, to report and to keep it."""

    call: Call
    ids: Tensor
    found: Found
    decision: Decision
    prefilled: Prefilled
    cache: InterruptibleCache
    movable: bool
    started: float

    def __post_init__(self) -> None:
        self._depths = self.found.depths(self.prefilled.recomputed)

    @property
    def pending(self) -> int:
        """Prompt tokens whose rows the cache lacks yet, at least 1."""
        return self.prefilled.pending

    @property
    def approximate(self) -> bool:
        """Whether decoding reads other rows than a full prefill's: approximate ones, or not all of them."""
        retained = self.cache is not self.prefilled.cache
        return retained or self.decision.budget is not None or bool(self._depths.any())

    @property
    def room(self) -> int:
        """Tokens that may follow the prompt."""
        limit = self.call.prefill.spec.static_until
        context = self.call.context
        return max(1, (context if limit is None else min(limit, context)) - len(self.ids))

    def hand_over(self) -> None:
        """The cache is the caller's from now on: no limit of this call ends what he does with it."""
        for cache in (self.cache, self.prefilled.cache):
            cache.interrupt = NEVER

    def report(self, *, first_token_at: float, generated: int = 0) -> ReuseReport:
        """The report, made after decoding; ``first_token_at`` in ``time.perf_counter`` seconds."""
        plan, call = self.found.plan, self.call
        n = len(plan)
        n_layers = len(self.prefilled.cache.layers)
        outcome, reason = self._outcome()
        recomputed = self.prefilled.recomputed
        bytes_full = kv_bytes(self.prefilled.cache.rows(n - 1))
        return ReuseReport(
            arrived_at=call.arrived_at,
            outcome=outcome,
            reason=reason,
            level=level_of(call.asked),
            served_level=level_of(call.policy),
            reference_ids=plan.drawn_on,
            similarity=self.found.similarity,
            prompt_tokens=n,
            prefix_tokens=plan.prefix_tokens,
            moved_tokens=plan.count(Source.MOVED),
            fuzzy_tokens=plan.count(Source.FUZZY),
            new_tokens=plan.count(Source.NEW),
            recomputed_tokens=int(recomputed.sum()),
            recompute_ratio=(self.prefilled.layer_rows + n_layers) / (n * n_layers),
            queue_ms=call.queue_ms,
            lookup_ms=call.embed_ms + self.found.lookup_ms,
            match_ms=self.found.match_ms,
            prefill_ms=1e3 * (first_token_at - self.started),
            ttft_ms=1e3 * (first_token_at - call.arrived),
            decode_ms=1e3 * (time.perf_counter() - first_token_at),
            kv_bytes=bytes_full if self.cache is self.prefilled.cache else _retained_bytes(self.cache, n - 1),
            kv_bytes_full=bytes_full,
            depth=int(self._depths.max(initial=0)),
            calibration=self.decision.calibration,
            expected_kl=self.decision.expected_kl,
            generated_tokens=generated,
            token_sources=plan.source.tolist(),
            token_recomputed=recomputed.astype(int).tolist(),
        )

    @contextmanager
    def distrust(self) -> Iterator[None]:
        """While the answer is computed: if it is not made of numbers, the references it drew on leave the pool."""
        try:
            yield
        except NumericalError:
            self.call.pool.discard(self.found.used)
            raise

    def finish(self, first_token_at: float, generated: list[int], *, store: bool, copy: bool = False) -> ReuseReport:
        """Close the books of a call: what served it, its report, and its rows in the pool if ``store``."""
        self.call.pool.touch(self.found.used)
        report = self.report(first_token_at=first_token_at, generated=len(generated))
        return report.model_copy(update={"stored": self.store(generated, copy=copy)}) if store else report

    def store(self, generated: list[int], *, copy: bool = False) -> bool:
        """Keep the rows of the prompt and of the generated tokens whose rows exist (all but the last), if they fit."""
        deepest = self._depths.max(initial=0)
        if not self.movable or deepest > self.call.policy.max_depth:
            return False
        if self.call.weights.identity() != self.call.computed_by:  # another thread changed them meanwhile
            return False
        cache = self.prefilled.cache
        tokens = (
            self._with_answer(generated) if self.cache is cache else self.call.encoded.ids[: cache.layers[0].length]
        )
        depth = np.full(len(tokens), deepest, np.uint8)
        known = min(len(self._depths), len(tokens))
        depth[:known] = self._depths[:known]
        vectors = self.call.vectors
        entry = Entry.of_rows(
            self.call.namespace,
            tokens,
            cache.rows(len(tokens)),
            depth,
            NO_VECTORS if vectors.foreign else vectors.of(tokens),  # foreign code is asked after the model's turn
            kl_bound=self._kl_bound,
            pinned=self.call.pinned,
            weights=self.call.computed_by,
            steady=self._steady,
        )
        kept = self.call.pool.add(entry, copy=copy)
        held = entry if kept else self.call.pool.unembedded(entry)
        if held is not None:
            self.call.kept = weakref.ref(held)
        return kept

    @property
    def _steady(self) -> int | None:
        """Leading rows whose bits do not depend on where this prompt ended; None: no row's do."""
        block, n = block_of(self.call.model), len(self.ids)
        if block == 1:
            return None
        reused = self.found.steady
        if self.decision.budget is not None or reused < self.found.plan.prefix_tokens:
            return reused
        return whole_blocks(n - 1 if self.pending == 1 else n, block)

    @property
    def _kl_bound(self) -> float:
        """The laxest bound that its approximate rows were made under, in nats: the policy's or that of what it read."""
        own = 0.0 if self.decision.budget is None else bound_of(self.call.policy)
        return max(own, self.found.kl_bound)

    def _with_answer(self, generated: list[int]) -> Tokens:
        """The tokens that the cache has rows of, all but the last, as they will be spelled when they come back."""
        call, cache = self.call, self.prefilled.cache
        prompt, length = call.encoded.ids, cache.layers[0].length
        tokens = np.concatenate((prompt, np.asarray(generated, np.int64)))[:length]
        if not generated or call.encoded.from_ids:
            return tokens
        again = retokenized(prompt, generated, call.tokenizer, call.encoded.control)[:-1]
        known = common_prefix(tokens, again)
        limit = call.prefill.spec.static_until
        room = call.context if limit is None else min(limit, call.context)
        if known == len(tokens) or len(again) > room:
            return tokens
        try:
            call.prefill.recompute_tail(cache, to_torch(again, self.ids.device), known)
        except (CallCancelledError, CallTimeoutError, torch.OutOfMemoryError):
            # the answer is there: what is not computed yet is not kept
            cache.finish(known)
            return tokens[:known]
        return again

    def _outcome(self) -> tuple[Outcome, str]:
        if self.decision.budget is not None:
            return "semantic", self.decision.reason
        if self.found.plan.prefix_tokens:
            return "prefix", self.decision.reason
        return ("bypass" if self.decision.bypassed else "miss"), self.decision.reason


def _prefix_only(found: Found, *, lossless: bool) -> Found:
    """The same plan without its approximate sources, for a call that computes everything behind the prefix.

    ``lossless`` ends the prefix where its rows are no longer those of a full prefill.
    """
    plan = found.plan
    approximate = (plan.source == Source.MOVED) | (plan.source == Source.FUZZY)
    if lossless:
        approximate |= found.depths(recomputed=np.zeros(len(plan), bool)) > 0
    source, reference, position = plan.source.copy(), plan.reference.copy(), plan.position.copy()
    source[approximate], reference[approximate], position[approximate] = Source.NEW, -1, -1
    prefix = ReusePlan(source, reference, position, plan.reference_ids, plan.similarity)
    return replace(found, plan=prefix)


def _retained_bytes(cache: Cache, prompt_rows: int) -> int:
    """Bytes that a retained cache held for the first ``prompt_rows`` tokens."""
    total = 0
    for layer in cache.layers:
        assert isinstance(layer.keys, torch.Tensor)
        assert isinstance(layer.values, torch.Tensor)
        rows = prompt_rows - layer.dropped
        per_row = layer.keys[:, :, :1].numel() + layer.values[:, :, :1].numel()
        total += rows * per_row * layer.keys.element_size()
    return total
