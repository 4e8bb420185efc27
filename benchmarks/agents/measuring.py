"""One turn of a chain: the full prefill, and a call with reuse compared with it."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import Cache

from benchmarks.agents.held import CALL_TOKENS, answer_holds
from benchmarks.agents.item import BACK_TO_BACK, NOISE_FLOOR, PREFIX_CACHE, TurnItem
from benchmarks.agents.old_text import OldText
from benchmarks.measure import Baseline, full_prefill
from benchmarks.systems.answer import common_length
from benchmarks.systems.prefix_cache import prefill_rest
from benchmarks.workloads.agent_steps import Ask
from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.budget.levels import MEASURED_TOKENS
from semshare_core.model.computing import computing
from semshare_core.model.lock import lock_of
from semshare_core.prompt.encode import Prompt
from semshare_core.quality.divergence import Continuation, Divergence


@contextmanager
def own_passes(model: PreTrainedModel) -> Iterator[None]:
    """Passes of our own between the engine's calls: background work of an engine waits meanwhile."""
    with lock_of(model), computing(model):
        yield


@dataclass(frozen=True)
class Place:
    """Which turn is measured, in the words of :class:`TurnItem`."""

    part: str
    chain: str
    edit: str
    turn: int
    mode: str = BACK_TO_BACK


@dataclass(frozen=True)
class FullTurn:
    """The full prefill of a turn's prompt.

    Attributes:
        held: whether its own answer holds.
        cpu_seconds: processor time of the thread that computed it.
    """

    prompt: Prompt
    ask: Ask
    base: Baseline
    held: bool | None
    cpu_seconds: float


def full_turn(engine: SemShareEngine, prompt: Prompt, ask: Ask) -> FullTurn:
    """Prefill in full with plain transformers, answer greedily, and judge the answer."""
    model, tokens = engine.model, CALL_TOKENS if ask.kind == "call" else MEASURED_TOKENS
    with own_passes(model):
        ids = torch.tensor([engine.token_ids(prompt)], device=model.device)
        began = time.thread_time()
        seconds, logits, cache = full_prefill(model, ids)
        cpu_seconds = time.thread_time() - began
        spare = copy.deepcopy(cache) if ask.kind in ("copy", "gone", "place") else None
        continuation, log_probs = Continuation(model, cache).greedy(logits, tokens)
        held = True if ask.kind == "call" else None
        if spare is not None:
            held = answer_holds(model, engine.tokenizer, ask, spare, logits, continuation.tolist())
    return FullTurn(prompt, ask, Baseline(ids, seconds, continuation, log_probs), held, cpu_seconds)


def served_turn(
    engine: SemShareEngine,
    full: FullTurn,
    reuse: str | ReusePolicy,
    place: Place,
    old: OldText,
    *,
    system: str = "",
    namespace: str | None = None,
    store: bool = True,
) -> TurnItem:
    """Call the engine and compare what it made with the full prefill."""
    began = time.thread_time()
    made = engine.prefill(full.prompt, reuse=reuse, namespace=namespace, store=store)
    cpu_seconds = time.thread_time() - began
    report = made.report
    kl, agree, held = _compared(engine.model, engine, full, made.cache, made.logits)
    marks = old.marks(full.base.ids[0].numpy())
    computed = np.asarray(report.token_recomputed, bool) if report.token_recomputed else np.ones(len(marks), bool)
    return _item(
        place,
        full,
        system or (reuse if isinstance(reuse, str) else "custom"),
        (kl, agree, held),
        times=(report.ttft_ms / 1e3, cpu_seconds),
        old=(int(marks.sum()), int((marks & computed).sum())),
        report=report,
    )


def floor_turn(engine: SemShareEngine, other: PreTrainedModel, full: FullTurn, place: Place) -> TurnItem:
    """The full prefill by ``other``, the same model in other numerics: what even no reuse at all loses."""
    with own_passes(other):
        began = time.thread_time()
        seconds, logits, cache = full_prefill(other, full.base.ids)
        cpu_seconds = time.thread_time() - began
    compared = _compared(other, engine, full, cache, logits)
    return _item(place, full, NOISE_FLOOR, compared, times=(seconds, cpu_seconds), old=(0, 0), report=None)


def prefix_turn(engine: SemShareEngine, full: FullTurn, before: Tensor, place: Place) -> TurnItem:
    """By transformers' own cache of an earlier prompt, int64 [1, m]: no lossless system computes less.

    Timed are the search for the common beginning and the rest of the prompt; the rows lie in the cache already.
    """
    model, ids = engine.model, full.base.ids
    with own_passes(model), torch.no_grad():
        cache = full_prefill(model, before)[2]
        began, started = time.thread_time(), time.perf_counter()
        known = common_length(before[0].tolist(), ids[0, :-1].tolist())
        if known < before.shape[1]:
            cache.crop(known - before.shape[1])
        logits = prefill_rest(model, cache, ids, known)
        times = time.perf_counter() - started, time.thread_time() - began
    compared = _compared(model, engine, full, cache, logits)
    item = _item(place, full, PREFIX_CACHE, compared, times=times, old=(0, 0), report=None)
    ratio = round(1 - known / ids.shape[1], 4)
    return replace(item, recompute_ratio=ratio, outcome="prefix")


def _compared(
    model: PreTrainedModel, engine: SemShareEngine, full: FullTurn, cache: Cache, logits: Tensor
) -> tuple[list[float], list[int], bool | None]:
    base, ask = full.base, full.ask
    with own_passes(model):
        spare = copy.deepcopy(cache) if ask.kind != "say" else None
        said = Continuation(model, cache).follow(logits, base.continuation)
        found = Divergence.between(base.log_probs, said)
        agree = [int(same) for same in found.agree]
        if ask.kind == "call" and all(agree):
            held: bool | None = True  # its own answer is the full prefill's
        elif spare is not None:
            held = answer_holds(model, engine.tokenizer, ask, spare, logits, base.continuation.tolist())
        else:
            held = None
    return [float(value) for value in found.kl], agree, held


def _item(
    place: Place,
    full: FullTurn,
    system: str,
    compared: tuple[list[float], list[int], bool | None],
    *,
    times: tuple[float, float],
    old: tuple[int, int],
    report: ReuseReport | None,
) -> TurnItem:
    kl, agree, held = compared
    return TurnItem(
        part=place.part,
        chain=place.chain,
        edit=place.edit,
        turn=place.turn,
        system=system,
        mode=place.mode,
        tokens=full.base.ids.shape[1],
        ttft_ms=round(1e3 * times[0], 2),
        full_ms=round(1e3 * full.base.seconds, 2),
        cpu_ms=round(1e3 * times[1], 2),
        full_cpu_ms=round(1e3 * full.cpu_seconds, 2),
        kl=[round(value, 5) for value in kl],
        agree=agree,
        recompute_ratio=1.0 if report is None else round(report.recompute_ratio, 4),
        old_tokens=old[0],
        old_computed=old[1],
        ask=full.ask.kind,
        held=held,
        full_held=full.held,
        outcome="full" if report is None else report.outcome,
        reason="" if report is None else report.reason,
        calibration=None if report is None else report.calibration,
        expected_kl=None if report is None else report.expected_kl,
        account=None if report is None else report.account,
    )
