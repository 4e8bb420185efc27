"""The last stage of a request: report it, store its rows in the pool, and let the canary check it."""

from __future__ import annotations

import math
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import numpy as np
import torch
from transformers.cache_utils import Cache

from semshare_core.compress.live.compressed import CompressedCache, compressed, compressor_for
from semshare_core.embed.prompt_vectors import NO_VECTORS
from semshare_core.errors import CallCancelledError, CallTimeoutError
from semshare_core.match.difference import first_difference
from semshare_core.match.plan import Source
from semshare_core.pool import Entry
from semshare_core.prefill.cache import kv_bytes, to_torch
from semshare_core.prefilled import PrefilledRequest
from semshare_core.process.interrupt import NEVER
from semshare_core.prompt.own_tokenizer import decode_ids
from semshare_core.prompt.retokenize import retokenized
from semshare_core.quality.healing_claim import Claim
from semshare_core.quality.replay import Replay
from semshare_core.report import ReuseReport
from semshare_core.tokens import Tokens, common_prefix


def commit(
    prefilled: PrefilledRequest, first_token_at: float, generated: list[int], *, store: bool, copy: bool = False
) -> tuple[ReuseReport, Callable[[], None]]:
    """Report a request, and store its rows if ``store``.

    Args:
        first_token_at: in seconds of ``time.perf_counter``.
        generated: the answer's token ids.
        copy: the caller keeps the cache, so the pool gets a copy of the rows.

    Returns:
        The report, and a function that starts the canary's check. Call the function when the model's lock is free,
        because it may call the canary's listeners.
    """
    request, canary = prefilled.request, prefilled.request.runtime.canary
    chosen = canary.chooses(request.requested.policy.canary)
    replay = None
    if chosen and prefilled.approximate and canary.has_room:  # before the pool takes the rows
        with suppress(torch.OutOfMemoryError):  # the answer is complete; without memory for a copy there is no check
            replay = Replay.of(prefilled.ids, generated, _began_with(prefilled), prefilled.room, request.computed_by)
    # before the rows are stored: what they push out of the pool must leave memory at once
    request.runtime.healing.consider_used(request.runtime.pool.touch(prefilled.planned.lookup.used))
    report = report_of(prefilled, first_token_at, len(generated))
    if store:
        report = report.model_copy(update={"stored": store_rows(prefilled, generated, copy=copy)})
    if report.stored:
        _heal(prefilled, report, replay)
    if not chosen:
        return report, lambda: None
    if prefilled.approximate:
        return report, partial(canary.check, report, request.requested, replay)
    return report, partial(canary.count_lossless, report, request.requested)


def _heal(prefilled: PrefilledRequest, report: ReuseReport, replay: Replay | None) -> None:
    """Have the stored rows healed, by the check if there is one: it computes the prompt's rows in any case."""
    request, healing = prefilled.request, prefilled.request.runtime.healing
    entry = request.entry() if request.entry is not None else None
    if entry is None:
        return
    checked = replay is not None and common_prefix(entry.tokens, request.tokens) >= len(request.tokens) - 1
    candidate = healing.consider(entry, report, prefilled.planned.lookup.plan.taken, claimed=checked)
    if replay is not None and checked and candidate is not None:
        replay.claim = Claim(healing, candidate)


def _began_with(prefilled: PrefilledRequest) -> Cache:
    """What decoding began with. Compressed once more, for what a compressor made changes while decoding."""
    request, whole = prefilled.request, prefilled.whole.cache
    compressor = compressor_for(request.goal.policy)
    if not prefilled.compressed or compressor is None:
        return prefilled.cache
    whole.interrupt = NEVER  # the answer is there, and is not lost for its check
    return compressed(compressor, request.runtime.model, request.runtime.prefill.spec, prefilled.ids, whole)


def report_of(prefilled: PrefilledRequest, first_token_at: float, generated: int) -> ReuseReport:
    """The report of a request that has generated ``generated`` tokens."""
    request, lookup, decision = prefilled.request, prefilled.planned.lookup, prefilled.planned.decision
    plan, recomputed = lookup.plan, prefilled.whole.recomputed
    n, n_layers = len(plan), len(prefilled.whole.cache.layers)
    bytes_full = kv_bytes(prefilled.whole.cache.rows(n - 1))
    text_of = partial(decode_ids, request.runtime.tokenizer, special=True)
    return ReuseReport(
        arrived_at=request.arrived_at,
        outcome=prefilled.outcome,
        reason=decision.reason,
        level=request.requested.level,
        served_level=request.goal.level,
        reference_ids=plan.drawn_on,
        similarity=lookup.similarity,
        prompt_tokens=n,
        prefix_tokens=plan.prefix_tokens,
        moved_tokens=plan.count(Source.MOVED),
        fuzzy_tokens=plan.count(Source.FUZZY),
        new_tokens=plan.count(Source.NEW),
        lossless_prefix_tokens=prefilled.lossless_prefix,
        recomputed_tokens=int(recomputed.sum()),
        recompute_ratio=(prefilled.whole.layer_rows + n_layers) / (n * n_layers),
        queue_ms=request.queue_ms,
        lookup_ms=request.embed_ms + lookup.lookup_ms,
        match_ms=lookup.match_ms,
        prefill_ms=1e3 * (first_token_at - prefilled.started),
        ttft_ms=1e3 * (first_token_at - request.arrived),
        decode_ms=1e3 * (time.perf_counter() - first_token_at),
        kv_bytes=prefilled.cache.prompt_bytes if isinstance(prefilled.cache, CompressedCache) else bytes_full,
        kv_bytes_full=bytes_full,
        account=None if math.isinf(prefilled.account) else prefilled.account,
        calibration=decision.calibration,
        expected_kl=prefilled.expected_kl,
        first_difference=first_difference(request.tokens, lookup.nearby, text_of),
        generated_tokens=generated,
        token_sources=plan.source.tolist(),
        token_recomputed=recomputed.astype(int).tolist(),
    )


def store_rows(prefilled: PrefilledRequest, generated: list[int], *, copy: bool = False) -> bool:
    """Store the rows of the prompt and of the answer without its last token. Returns whether the pool took them."""
    request, runtime = prefilled.request, prefilled.request.runtime
    if not prefilled.planned.movable:
        return False
    if runtime.weights.identity() != request.computed_by:  # another thread changed the weights meanwhile
        return False
    cache = prefilled.whole.cache
    tokens = request.tokens[: cache.layers[0].length] if prefilled.compressed else _with_answer(prefilled, generated)
    prompt = prefilled.approximate_rows[: len(tokens)]
    approximate = np.full(len(tokens), bool(prompt.any()))  # the answer has read the prompt
    approximate[: len(prompt)] = prompt
    entry = Entry.of_rows(
        request.namespace,
        tokens,
        cache.rows(len(tokens)),
        approximate,
        # a user's encoder runs later, when the model's lock is free
        NO_VECTORS if runtime.vectors.foreign else runtime.vectors.of(tokens),
        account=prefilled.account if approximate.any() else 0.0,
        pinned=request.pinned,
        weights=request.computed_by,
        steady=prefilled.steady,
    )
    stored = runtime.pool.add(entry, copy=copy)
    owner = entry if stored else runtime.pool.unembedded(entry)
    if owner is not None:
        request.entry = weakref.ref(owner)
    return stored


def _with_answer(prefilled: PrefilledRequest, generated: list[int]) -> Tokens:
    """The cache's tokens, as the next prompt will tokenize them. Recomputes the rows of tokens that change."""
    request, runtime = prefilled.request, prefilled.request.runtime
    cache = prefilled.whole.cache
    length = cache.layers[0].length
    tokens = np.concatenate((request.tokens, np.asarray(generated, np.int64)))[:length]
    if not generated or request.encoded.from_ids:
        return tokens
    new_tokens = retokenized(request.tokens, generated, runtime.tokenizer, request.encoded.control)[:-1]
    unchanged = common_prefix(tokens, new_tokens)
    if unchanged == len(tokens) or len(new_tokens) > runtime.room:
        return tokens
    try:
        runtime.prefill.recompute_tail(cache, to_torch(new_tokens, prefilled.ids.device), unchanged)
    except (CallCancelledError, CallTimeoutError, torch.OutOfMemoryError):
        cache.finish(unchanged)  # the answer is complete; only its unchanged rows are stored
        return tokens[:unchanged]
    return new_tokens
