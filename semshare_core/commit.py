"""The last stage of a request: its report, its rows in the pool, and its check by the canary."""

from __future__ import annotations

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
from semshare_core.match.plan import Source
from semshare_core.pool import Entry
from semshare_core.prefill.cache import kv_bytes, to_torch
from semshare_core.prefilled import PrefilledRequest
from semshare_core.process.interrupt import NEVER
from semshare_core.prompt.retokenize import retokenized
from semshare_core.quality.replay import Replay
from semshare_core.report import ReuseReport
from semshare_core.tokens import Tokens, common_prefix


def commit(
    prefilled: PrefilledRequest, first_token_at: float, generated: list[int], *, store: bool, copy: bool = False
) -> tuple[ReuseReport, Callable[[], None]]:
    """Report a request, and keep its rows if ``store``.

    Args:
        first_token_at: ``time.perf_counter`` seconds.
        generated: token ids of the answer.
        copy: the caller keeps the cache: the pool gets rows of its own.

    Returns:
        The report, and what has the answer checked if the canary chooses it. The latter is called when the model's
        lock is free, for those who listen to the canary may be told in this thread.
    """
    request, canary = prefilled.request, prefilled.request.runtime.canary
    chosen = canary.chooses(request.asked.policy.canary)
    replay = None
    if chosen and prefilled.approximate and canary.has_room:  # copied before the pool takes the rows
        with suppress(torch.OutOfMemoryError):  # the answer is there: without room for a copy the check is dropped
            replay = Replay.of(prefilled.ids, generated, _began_with(prefilled), prefilled.room, request.computed_by)
    request.runtime.pool.touch(prefilled.planned.lookup.used)
    report = report_of(prefilled, first_token_at, len(generated))
    if store:
        report = report.model_copy(update={"stored": keep(prefilled, generated, copy=copy)})
    if not chosen:
        return report, lambda: None
    if prefilled.approximate:
        return report, partial(canary.check, report, request.asked.policy, replay)
    return report, partial(canary.count_lossless, report, request.asked.policy)


def _began_with(prefilled: PrefilledRequest) -> Cache:
    """What decoding began with. Compressed once more, for what a compressor made changes while decoding."""
    request, whole = prefilled.request, prefilled.prefilled.cache
    compressor = compressor_for(request.goal.policy)
    if not prefilled.compressed or compressor is None:
        return prefilled.cache
    whole.interrupt = NEVER  # the answer is there, and is not lost for its check
    return compressed(compressor, request.runtime.model, request.runtime.prefill.spec, prefilled.ids, whole)


def report_of(prefilled: PrefilledRequest, first_token_at: float, generated: int) -> ReuseReport:
    """The report, made after ``generated`` tokens were decoded."""
    request, lookup, decision = prefilled.request, prefilled.planned.lookup, prefilled.planned.decision
    plan, recomputed = lookup.plan, prefilled.prefilled.recomputed
    n, n_layers = len(plan), len(prefilled.prefilled.cache.layers)
    bytes_full = kv_bytes(prefilled.prefilled.cache.rows(n - 1))
    return ReuseReport(
        arrived_at=request.arrived_at,
        outcome=prefilled.outcome,
        reason=decision.reason,
        level=request.asked.level,
        served_level=request.goal.level,
        reference_ids=plan.drawn_on,
        similarity=lookup.similarity,
        prompt_tokens=n,
        prefix_tokens=plan.prefix_tokens,
        moved_tokens=plan.count(Source.MOVED),
        fuzzy_tokens=plan.count(Source.FUZZY),
        new_tokens=plan.count(Source.NEW),
        recomputed_tokens=int(recomputed.sum()),
        recompute_ratio=(prefilled.prefilled.layer_rows + n_layers) / (n * n_layers),
        queue_ms=request.queue_ms,
        lookup_ms=request.embed_ms + lookup.lookup_ms,
        match_ms=lookup.match_ms,
        prefill_ms=1e3 * (first_token_at - prefilled.started),
        ttft_ms=1e3 * (first_token_at - request.arrived),
        decode_ms=1e3 * (time.perf_counter() - first_token_at),
        kv_bytes=prefilled.cache.prompt_bytes if isinstance(prefilled.cache, CompressedCache) else bytes_full,
        kv_bytes_full=bytes_full,
        depth=int(prefilled.depths.max(initial=0)),
        calibration=decision.calibration,
        expected_kl=decision.expected_kl,
        generated_tokens=generated,
        token_sources=plan.source.tolist(),
        token_recomputed=recomputed.astype(int).tolist(),
    )


def keep(prefilled: PrefilledRequest, generated: list[int], *, copy: bool = False) -> bool:
    """Keep the rows of the prompt and of the generated tokens whose rows exist (all but the last), if they fit."""
    request, runtime = prefilled.request, prefilled.request.runtime
    deepest = prefilled.depths.max(initial=0)
    if not prefilled.planned.movable or deepest > request.goal.policy.max_depth:
        return False
    if runtime.weights.identity() != request.computed_by:  # another thread changed them meanwhile
        return False
    cache = prefilled.prefilled.cache
    tokens = request.tokens[: cache.layers[0].length] if prefilled.compressed else _with_answer(prefilled, generated)
    depth = np.full(len(tokens), deepest, np.uint8)
    known = min(len(prefilled.depths), len(tokens))
    depth[:known] = prefilled.depths[:known]
    entry = Entry.of_rows(
        request.namespace,
        tokens,
        cache.rows(len(tokens)),
        depth,
        # foreign code is asked when the model's lock is free
        NO_VECTORS if runtime.vectors.foreign else runtime.vectors.of(tokens),
        kl_bound=prefilled.kl_bound,
        pinned=request.pinned,
        weights=request.computed_by,
        steady=prefilled.steady,
    )
    kept = runtime.pool.add(entry, copy=copy)
    holder = entry if kept else runtime.pool.unembedded(entry)
    if holder is not None:
        request.kept = weakref.ref(holder)
    return kept


def _with_answer(prefilled: PrefilledRequest, generated: list[int]) -> Tokens:
    """The tokens that the cache has rows of, all but the last, as they will be spelled when they come back."""
    request, runtime = prefilled.request, prefilled.request.runtime
    cache = prefilled.prefilled.cache
    length = cache.layers[0].length
    tokens = np.concatenate((request.tokens, np.asarray(generated, np.int64)))[:length]
    if not generated or request.encoded.from_ids:
        return tokens
    again = retokenized(request.tokens, generated, runtime.tokenizer, request.encoded.control)[:-1]
    known = common_prefix(tokens, again)
    if known == len(tokens) or len(again) > runtime.room:
        return tokens
    try:
        runtime.prefill.recompute_tail(cache, to_torch(again, prefilled.ids.device), known)
    except (CallCancelledError, CallTimeoutError, torch.OutOfMemoryError):
        # the answer is there: what is not computed yet is not kept
        cache.finish(known)
        return tokens[:known]
    return again
