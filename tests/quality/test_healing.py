"""Healing: approximate rows are computed afresh in the background, and what comes of it is a full prefill's."""

from __future__ import annotations

import contextvars
import gc
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.measure import greedy
from pooled import books_balance, rows_of
from semshare_core import Heal, PoolConfig, ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.model.lock import CallWaits
from semshare_core.pool import Entry
from semshare_core.pool.pool import ReferencePool
from semshare_core.prefill.cache import InterruptibleCache, MergedCache
from semshare_core.prefill.forward import RowForward
from semshare_core.quality.divergence import Continuation
from semshare_core.quality.fresh_rows import FreshRows
from semshare_core.quality.late_results import HEALED
from tiny_canary import TEXT, busy
from tiny_healing import POLICY, WAIT, ask, before_pass, entry_of, full_rows, healing_engine, largest_error, prompt
from tiny_models import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


def wait_for(report: ReuseReport, engine: SemShareEngine) -> ReuseReport:
    """The report of a call, when nothing is left to be healed."""
    assert engine.healing.wait(WAIT)
    return report


# What comes of it


@pytest.mark.parametrize("model", ["llama", "gemma3", "mpt", "mistral_sliding"])
def test_healed_rows_are_a_full_prefills(model: str) -> None:
    engine = healing_engine(model)
    with busy(engine):
        report = ask(engine)
        entry = entry_of(engine)
        assert entry.approximates
        assert largest_error(engine, entry) > 1e-3, "the test would see nothing"
        assert engine.pool.stats().approximate == 1
    assert engine.healing.wait(WAIT)
    assert not engine.healing.errors
    assert not entry.approximates
    assert largest_error(engine, entry) < 1e-4
    stats = engine.pool.stats()
    assert (stats.approximate, stats.healed, stats.healed_tokens) == (0, 1, report.healed_tokens)
    assert 0 < report.healed_tokens <= len(entry)
    assert books_balance(engine.pool)


def test_engines_heal_unless_they_are_told_not_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of what keeps the engines of other tests from it
    engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=POLICY)
    engine.warm([TEXT])
    ask(engine)
    assert engine.healing.wait(WAIT)
    assert engine.healing.counts().healed == 1
    assert not entry_of(engine).approximates


def test_exact_takes_healed_rows_and_answers_as_the_model_alone() -> None:
    engine = healing_engine()
    ask(engine)
    assert engine.healing.wait(WAIT)
    turn = [*entry_of(engine).tokens.tolist(), *engine.token_ids(" And why?")]
    answer = engine.generate(turn, max_new_tokens=8, reuse="exact", store=False)
    assert answer.report.prefix_tokens == len(entry_of(engine))
    assert answer.token_ids == greedy(engine, turn, 8)


@pytest.mark.parametrize("checked", [False, True])
def test_in_bfloat16_healed_rows_have_the_bits_of_one_pass(checked: bool) -> None:
    numbers = torch.Generator().manual_seed(0)
    rows, weight = (torch.randn(300, 64, generator=numbers).to(torch.bfloat16) for _ in range(2))
    if any(not torch.equal(rows[:n] @ weight.T, (rows @ weight.T)[:n]) for n in (1, 7, 100)):
        pytest.skip("matrix products of this machine round by the number of rows")
    policy = POLICY.model_copy(update={"canary": float(checked)})
    engine = SemShareEngine(
        tiny_model("llama").to(torch.bfloat16), tiny_tokenizer(), policy=policy, pool=PoolConfig(heal=True)
    )
    parts = [[(7 * i * i + k * i) % 250 for i in range(450)] for k in range(3)]
    engine.warm([parts[0] + parts[1] + parts[2]])
    ids = parts[2] + parts[0] + parts[1]
    assert engine.prefill(ids).report.outcome == "semantic"
    assert engine.canary.wait(WAIT)
    assert engine.healing.wait(WAIT)
    assert engine.healing.counts().healed == 1
    [entry] = [each for each in engine.pool._entries.chosen(None) if each.tokens[:9].tolist() == ids[:9]]
    assert entry.steady == 1024
    for ours, full in zip(rows_of(entry), full_rows(engine, entry), strict=True):
        for a, b in zip(ours, full, strict=True):
            assert torch.equal(a[:, :, :1024], b[:, :, :1024])
    target = ids + parts[0][:100]
    pre = engine.prefill(target, reuse="exact", store=False)
    assert pre.report.prefix_tokens == 1024
    with torch.no_grad():
        assert torch.equal(pre.logits, engine.model(torch.tensor([target])).logits[0, -1])


def test_segments_before_the_first_approximate_row_stay_shared() -> None:
    engine = healing_engine()
    engine.pool.clear()
    head = TEXT[:200]
    engine.warm([head + TEXT])
    with busy(engine):
        report = engine.generate(head + prompt(), max_new_tokens=4).report
        assert report.stored
        [entry] = [each for each in engine.pool._entries.chosen(None) if each.approximates]
        shared = entry.segments[0]
        assert len(shared.holders) == 2
        assert shared.length >= 200
    assert engine.healing.wait(WAIT)
    assert not entry.approximates
    assert entry.segments[0] is shared
    assert len(shared.holders) == 2
    assert largest_error(engine, entry) < 1e-4
    assert books_balance(engine.pool)


def test_what_another_entry_has_lossless_is_not_computed_again() -> None:
    """Two conversations part behind an approximate beginning: healing one spares the other that beginning."""
    engine = healing_engine()
    with busy(engine):
        reports = [ask(engine, 0, "Who wrote it? And when was that?")]
        for question in ("Who wrote it? Or was it nobody at all?", "Who wrote it? I am asking for a friend."):
            reports.append(engine.generate(prompt(0, question), max_new_tokens=4).report)
    assert engine.healing.wait(WAIT)
    assert [bool(report.healed_tokens) for report in reports] == [False, False, True], "the others are behind it"
    for candidate in engine.healing._order.every:
        candidate.continued = 0
    engine.healing.ask()
    assert engine.healing.wait(WAIT)
    assert all(report.healed_tokens for report in reports)
    assert engine.healing.counts().rows < 0.5 * sum(report.healed_tokens for report in reports)


def test_pin_uses_creation_and_expiry_are_kept() -> None:
    engine = healing_engine(ttl_seconds=1000)
    with busy(engine):
        ask(engine)
        entry = entry_of(engine)
        engine.pool.touch([entry])
        uses = entry.segments[-1].uses
        with engine.pool._lock:
            engine.pool._entries.pin(entry)
        created, expires = entry.created, entry.expires
        assert uses > 1
    assert engine.healing.wait(WAIT)
    assert entry_of(engine) is entry
    assert not entry.approximates
    assert (entry.created, entry.expires, entry.segments[-1].uses) == (created, expires, uses)
    assert entry.pinned
    assert set(entry.segments) <= engine.pool._entries.pinned_segments()


def test_healed_runs_are_found_behind_other_text() -> None:
    """The index of runs knows lossless rows only: it learns of those that have become so."""
    engine = healing_engine()
    ask(engine)
    assert engine.healing.wait(WAIT)
    entry = entry_of(engine)
    weights = entry.weights
    assert entry in engine.pool.sharing("default", entry.tokens[-60:], 8, weights=weights)


# Calls come first


def test_a_call_ends_the_pass_between_two_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()
    passed: list[int] = []
    answers: list[list[int]] = []
    context = contextvars.Context()  # of its own: the pass that it is started in holds the lock
    caller = threading.Thread(
        target=context.run, args=(lambda: answers.append(engine.generate("Hello", max_new_tokens=2).token_ids),)
    )
    update = MergedCache.update

    def watched(cache: Any, keys: Any, values: Any, layer: int, *more: Any, **named: Any) -> Any:
        if threading.current_thread().name == "semshare-healing":
            passed.append(layer)
            if len(passed) == 2:
                caller.start()
                while engine._lock._calls == 0:
                    time.sleep(0.001)
        return update(cache, keys, values, layer, *more, **named)

    monkeypatch.setattr(MergedCache, "update", watched)
    ask(engine)
    assert engine.healing.wait(WAIT)
    caller.join(WAIT)
    assert len(answers) == 1
    assert passed[:3] == [0, 1, 0], "the pass ended in its second layer, and began again behind the call"
    assert engine.healing.counts().wasted_rows > 0
    assert not entry_of(engine).approximates
    assert largest_error(engine, entry_of(engine)) < 1e-4


def test_nothing_is_healed_while_a_call_waits() -> None:
    engine = healing_engine()
    with busy(engine):
        ask(engine)
        assert not engine.healing.wait(0.2)
        assert engine.healing.counts().waiting == 1
    assert engine.healing.wait(WAIT)


def test_the_canary_gives_way_between_two_layers_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """And measures what it would have measured undisturbed."""
    policy = POLICY.model_copy(update={"canary": 1.0})
    undisturbed, engine = (healing_engine(policy=policy, heal=False) for _ in range(2))
    expected = ask(undisturbed)
    assert undisturbed.canary.wait(WAIT)
    ended: list[int] = []
    update = InterruptibleCache.update

    def waited_for(cache: Any, keys: Any, values: Any, layer: int, *more: Any, **named: Any) -> Any:
        arrives = layer == 2 and len(ended) < 4 and threading.current_thread().name == "semshare-canary"
        engine._lock._calls += arrives  # and is through at once
        try:
            return update(cache, keys, values, layer, *more, **named)
        except CallWaits:
            ended.append(layer)
            raise
        finally:
            engine._lock._calls -= arrives

    monkeypatch.setattr(InterruptibleCache, "update", waited_for)
    report = ask(engine)
    assert engine.canary.wait(WAIT)
    assert not engine.canary.errors
    assert ended == [2] * 4
    assert report.canary is not None
    assert expected.canary is not None
    assert report.canary.kl == pytest.approx(expected.canary.kl, rel=1e-4)


def test_who_runs_the_model_himself_is_not_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()
    ids = torch.tensor([engine.token_ids(TEXT)])
    with torch.no_grad():
        alone = engine.model(ids, use_cache=False).logits
    in_a_layer, go_on = threading.Event(), threading.Event()
    call = RowForward.call

    def stopping(self: RowForward, *arguments: Any) -> None:
        if threading.current_thread().name == "semshare-healing":  # its hooks are on the layers
            in_a_layer.set()
            assert go_on.wait(WAIT)
        call(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RowForward, "call", stopping)
        ask(engine)
        assert in_a_layer.wait(WAIT)
        with torch.no_grad():
            beside = engine.model(ids, use_cache=False).logits
        go_on.set()
        assert engine.healing.wait(WAIT)
    assert torch.allclose(alone, beside, atol=1e-5)


# What left stays gone


@pytest.mark.parametrize("way", ["cleared", "discarded", "expired"])
def test_what_leaves_meanwhile_does_not_come_back(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    engine = healing_engine(ttl_seconds=1000)

    def leave(fresh: FreshRows) -> None:
        entry = fresh.copy.entry()
        assert entry is not None
        if way == "cleared":
            engine.pool.clear("default")
        elif way == "discarded":
            engine.pool.discard([entry])
        else:
            with engine.pool._lock:
                entry.expires = 1.0
                engine.pool._entries.remember_expiry(entry)

    before = engine.pool.stats().entries
    with before_pass(monkeypatch, 2, leave) as acted:
        report = ask(engine)
        assert acted.wait(WAIT)
        assert engine.healing.wait(WAIT)
    assert engine.pool.stats().entries == (0 if way == "cleared" else before)
    counts = engine.healing.counts()
    assert (counts.healed, counts.gone, counts.waiting) == (0, 1, 0)
    assert counts.wasted_rows > 0
    assert report.healed_tokens == 0
    assert books_balance(engine.pool), "the room of the second copy is free again"


def test_better_rows_of_the_same_text_are_not_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()

    added: list[Entry] = []

    def add_better(fresh: FreshRows) -> None:
        entry = fresh.copy.entry()
        assert entry is not None
        rows = [(keys + 1, values + 1) for keys, values in rows_of(entry)]  # to tell them apart
        none = np.zeros(len(entry), bool)
        added.append(Entry.of_rows("default", entry.tokens, rows, none, entry.embedding, weights=entry.weights))
        assert engine.pool.add(added[0])
        assert entry_of(engine) is added[0]

    with before_pass(monkeypatch, 2, add_better) as acted:
        ask(engine)
        assert acted.wait(WAIT)
        assert engine.healing.wait(WAIT)
    assert entry_of(engine) is added[0]
    assert largest_error(engine, added[0]) > 0.9, "the rows are those that were added"
    assert (engine.healing.counts().healed, engine.healing.counts().gone) == (0, 1)
    assert books_balance(engine.pool)


def test_rows_of_other_weights_wait_until_those_are_back() -> None:
    engine = healing_engine()
    weight = engine.model.model.layers[1].self_attn.v_proj.weight
    kept = weight.detach().clone()
    with busy(engine):
        ask(engine)
        entry = entry_of(engine)
        with torch.no_grad():
            weight.mul_(2)
    assert engine.healing.wait(WAIT)
    assert entry.approximates
    assert engine.healing.counts().waiting == 1
    with torch.no_grad():
        weight.copy_(kept)
    assert engine.weights.identity() != entry.weights, "an edit in place is another identity, whatever was written"
    engine.healing.ask()
    assert engine.healing.wait(WAIT)
    assert entry.approximates


def test_weights_that_change_during_the_last_pass_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()
    advance = FreshRows.advance

    def changing(self: FreshRows, *arguments: Any) -> None:
        advance(self, *arguments)
        if self.complete:
            with torch.no_grad():
                engine.model.model.layers[1].self_attn.v_proj.weight.mul_(2)

    with monkeypatch.context() as patch:
        patch.setattr(FreshRows, "advance", changing)
        ask(engine)
        assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.healing.counts().healed == 0


def test_rows_computed_under_autocast_are_healed_under_it() -> None:
    engine = healing_engine()
    with torch.autocast("cpu", torch.bfloat16):
        engine.warm([TEXT])
        ask(engine)
    assert engine.healing.wait(WAIT)
    assert not engine.healing.errors
    assert not entry_of(engine).approximates
    with torch.autocast("cpu", torch.bfloat16):
        assert largest_error(engine, entry_of(engine)) < 0.05
    assert entry_of(engine).weights != engine.weights.identity()


def test_a_model_in_training_is_left_alone() -> None:
    engine = healing_engine()
    with busy(engine):
        ask(engine)
        engine.model.train()
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.model.training
    engine.model.eval()
    engine.healing.ask()
    assert engine.healing.wait(WAIT)
    assert not entry_of(engine).approximates


# Budget, order, limits


def test_without_room_for_a_second_copy_nothing_is_healed() -> None:
    engine = healing_engine()
    one = entry_bytes(engine)
    tight = healing_engine(max_bytes=int(2.2 * one))
    with busy(tight):
        ask(tight)
        entry = entry_of(tight)
        with tight.pool._lock:
            for each in tight.pool._entries.chosen(None):
                tight.pool._entries.pin(each)
    assert tight.healing.wait(WAIT)
    assert entry.approximates
    assert tight.healing.counts().refused == 1
    assert tight.pool.stats().bytes <= 2.2 * one
    assert books_balance(tight.pool)


def entry_bytes(engine: SemShareEngine) -> int:
    [entry] = engine.pool._entries.chosen(None)
    return entry.n_bytes


def test_a_new_entry_that_finds_no_other_room_has_that_of_the_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    one = entry_bytes(healing_engine())
    engine = healing_engine(max_bytes=int(3.3 * one))

    def stop(fresh: FreshRows) -> None:
        with engine.pool._lock:
            for each in engine.pool._entries.chosen(None):
                engine.pool._entries.pin(each)
        assert engine.pool.stats().bytes + fresh.copy.n_bytes > 2.4 * one
        caller.start()
        while engine._lock._calls == 0:
            time.sleep(0.001)

    reports: list[Any] = []
    other = "Something else altogether stands here, and is as long as the others are. " * 5
    warm = contextvars.Context().run  # the pass that it is started in holds the lock
    caller = threading.Thread(target=warm, args=(lambda: reports.append(engine.warm([other])[0]),))
    with before_pass(monkeypatch, 2, stop) as acted:
        ask(engine)
        assert acted.wait(WAIT)
        caller.join(WAIT)
    assert reports[0].stored
    assert engine.healing.wait(WAIT)
    assert engine.healing.counts().wasted_rows > 0
    assert engine.pool._tiers.used["device"] <= 3.3 * one
    assert books_balance(engine.pool)


def test_an_entry_behind_its_conversation_is_not_healed() -> None:
    engine = healing_engine()
    with busy(engine):
        first = ask(engine)
        entry = entry_of(engine)
        engine._runtime.healing.consider(other_entry(engine), first, {entry.id: len(entry)})
    assert engine.healing.wait(WAIT)
    assert entry.approximates
    assert engine.healing.counts().behind == 1
    engine._runtime.healing.consider(other_entry(engine), first, {entry.id: len(entry)})
    engine.healing.ask()
    assert engine.healing.wait(WAIT)
    assert not entry.approximates, "two conversations part there"


def other_entry(engine: SemShareEngine) -> Any:
    """A lossless one."""
    return next(each for each in engine.pool._entries.chosen(None) if not each.approximates)


def test_longer_prompts_than_the_ceiling_are_not_healed() -> None:
    engine = healing_engine(heal=Heal(max_tokens=100))
    ask(engine)
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    assert engine.healing.counts().waiting == 0


def test_a_small_share_of_the_time_is_kept_to(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine(heal=Heal(share=0.25))
    pauses: list[float] = []
    monkeypatch.setattr(engine.healing._worker, "pause", pauses.append)
    ask(engine)
    assert engine.healing.wait(WAIT)
    assert sum(pauses) == pytest.approx(3 * engine.healing.counts().seconds, rel=0.05)


def test_the_switch() -> None:
    assert PoolConfig().healing == Heal(), "on by default"
    assert PoolConfig(heal=True).healing == Heal()
    assert PoolConfig(heal=False).healing is None
    assert PoolConfig(heal=Heal(share=0.5)).healing == PoolConfig(heal={"share": 0.5}).healing == Heal(share=0.5)
    engine = healing_engine(heal=False)
    ask(engine)
    assert engine.healing.wait(0)
    assert entry_of(engine).approximates
    assert engine.healing._worker._jobs.thread is None
    for wrong in ("yes", 0.5, None):
        with pytest.raises(ConfigError, match="heal"):
            PoolConfig(heal=wrong)
    for wrong in ({"share": 0}, {"share": 1.1}, {"max_tokens": 0}):
        with pytest.raises(ConfigError):
            Heal(**wrong)


# One prefill for canary and healing


@pytest.mark.parametrize("way", ["generate", "prefill"])
def test_a_check_that_is_due_heals_with_its_own_prefill(monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    def asked(engine: SemShareEngine) -> Any:
        if way == "prefill":
            return engine.prefill(prompt()).report
        return engine.generate(prompt(), max_new_tokens=9).report

    policy = POLICY.model_copy(update={"canary": 1.0})
    apart = healing_engine(policy=policy, heal=False)
    expected = asked(apart)
    assert apart.canary.wait(WAIT)
    engine = healing_engine(policy=policy)
    monkeypatch.setattr(Continuation, "prefill", lambda *a: pytest.fail("a second prefill"))
    report = asked(engine)
    assert engine.canary.wait(WAIT)
    assert not engine.canary.errors
    assert report.canary.kl == pytest.approx(expected.canary.kl, rel=1e-3)
    assert report.canary.kl > 1e-3
    assert report.canary.tokens == expected.canary.tokens
    counts = engine.healing.counts()
    entry = entry_of(engine)
    assert (counts.healed, counts.rows) == (1, len(entry))
    assert counts.wasted_rows == 0
    assert report.healed_tokens > 0
    assert largest_error(engine, entry) < 1e-4
    assert engine.healing.wait(WAIT)


def test_a_check_that_is_dropped_leaves_the_entry_to_the_healing() -> None:
    engine = healing_engine(policy=POLICY.model_copy(update={"canary": 1.0}))
    with busy(engine):
        report = ask(engine)
        assert engine.healing.counts().waiting == 1
        threading.Thread(target=engine.canary.close, daemon=True).start()
        while not engine.canary._worker.closed:
            time.sleep(0.001)
    assert engine.canary.wait(WAIT)
    assert engine.healing.wait(WAIT)
    assert report.canary is not None
    assert report.canary.status == "dropped"
    assert not entry_of(engine).approximates


def test_a_check_whose_entry_is_cleared_measures_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine(policy=POLICY.model_copy(update={"canary": 1.0}))
    with before_pass(monkeypatch, 1, lambda fresh: engine.pool.clear() and None):
        report = ask(engine)
        assert engine.canary.wait(WAIT)
    assert report.canary is not None
    assert report.canary.status == "measured"
    assert engine.pool.stats().entries == 0
    assert books_balance(engine.pool)


# Threads, memory, folder, errors


def test_no_thread_keeps_an_engine_alive() -> None:
    engine = healing_engine()
    lock, pool, healing = engine._lock, weakref.ref(engine.pool), weakref.ref(engine.healing)
    lock._calls += 1  # a call of somebody else's is on its way
    ask(engine)
    thread = engine.healing._worker._jobs.thread
    assert thread is not None
    assert thread.is_alive()
    while not lock._changed._waiters:  # type: ignore[attr-defined]  # the thread waits for its turn
        time.sleep(0.001)
    model = engine.model
    del engine
    gc.collect()
    assert (pool(), healing()) == (None, None)
    with lock._changed:
        lock._calls -= 1
        lock._changed.notify_all()
    thread.join(WAIT)
    assert not thread.is_alive()
    assert not model.training


def test_an_engine_that_is_dropped_in_the_middle_of_a_pass_is_gone_behind_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()
    begun, go_on = threading.Event(), threading.Event()
    with before_pass(monkeypatch, 1, lambda fresh: begun.set() or go_on.wait(WAIT)):
        ask(engine)
        pool, thread = weakref.ref(engine.pool), engine.healing._worker._jobs.thread
        assert begun.wait(WAIT)
        del engine
        go_on.set()
        assert thread is not None
        thread.join(WAIT)
        assert not thread.is_alive()
    gc.collect()
    assert pool() is None


def test_closing_does_not_wait_for_the_end_of_a_call() -> None:
    engine = healing_engine(policy=POLICY.model_copy(update={"canary": 1.0}))
    with busy(engine):
        ask(engine)
        ask(engine, 1)
        for background in (engine.healing, engine.canary):
            closing = threading.Thread(target=background.close, daemon=True)
            closing.start()
            closing.join(10)
            assert not closing.is_alive()
    assert engine.canary.counts().dropped == 2


def test_what_was_to_be_healed_is_not_remembered_for_ever() -> None:
    engine = healing_engine()
    with busy(engine):
        report = ask(engine)
        assert report.id in HEALED._pending
        gone = weakref.ref(engine.healing)
        del engine
    gc.collect()
    assert gone() is None
    assert report.id not in HEALED._pending


def test_rows_in_memory_are_those_that_the_pool_counts(live: Callable[[], int]) -> None:
    engine = healing_engine()
    for number in range(3):
        ask(engine, number)
        assert engine.healing.wait(WAIT)
    assert engine.healing.counts().healed == 3
    table = engine.model.get_input_embeddings().weight.nbytes + engine.model.lm_head.weight.nbytes
    weights = sum(parameter.nbytes for parameter in engine.model.parameters())
    assert live() - engine.pool.stats().bytes - weights < table


def test_the_folder_follows(tmp_path: Path) -> None:
    engine = healing_engine(path=tmp_path)
    with busy(engine):
        ask(engine)
        engine.pool.flush()
        files = set((tmp_path / "rows").iterdir())
    assert engine.healing.wait(WAIT)
    entry = entry_of(engine)
    engine.pool.flush()
    assert books_balance(engine.pool)
    after = set((tmp_path / "rows").iterdir())
    assert len(after) == len(files)
    assert after != files, "the approximate rows are gone"
    wanted, n = rows_of(entry), len(entry)
    engine.pool.close()
    again = SemShareEngine(
        engine.model, engine.tokenizer, pool=PoolConfig(path=tmp_path, heal=True), policy=ReusePolicy(level="exact")
    )
    assert again.pool.stats().approximate == 0
    pre = again.prefill(prompt(), store=False)
    assert pre.report.prefix_tokens == pre.report.prompt_tokens - 1
    [found] = [each for each in again.pool._entries.chosen(None) if len(each) == n and each.id == entry.id]
    for ours, stored in zip(wanted, rows_of(found), strict=True):
        for a, b in zip(ours, stored, strict=True):
            assert torch.equal(a, b)
    again.pool.close()


def test_what_is_healed_while_the_pool_closes_stays_in_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, flush, flushed = healing_engine(path=tmp_path), ReferencePool.flush, threading.Event()

    def flush_and_heal(pool: ReferencePool) -> None:
        flush(pool)
        if not flushed.is_set():
            flushed.set()
            pool._worker.ask(lambda: time.sleep(0.5))  # a slow disk
            with engine._lock._changed:
                engine._lock._calls -= 1
                engine._lock._changed.notify_all()
            assert engine.healing.wait(WAIT)

    engine._lock._calls += 1  # nothing is healed before the pool closes
    ask(engine)
    engine.pool.flush()
    kept = engine.pool.stats().entries
    with monkeypatch.context() as patch:
        patch.setattr(ReferencePool, "flush", flush_and_heal)
        engine.pool.close()
    assert engine.healing.counts().healed == 1
    again = SemShareEngine(engine.model, engine.tokenizer, pool=PoolConfig(path=tmp_path, heal=False))
    assert (again.pool.stats().entries, again.pool.stats().approximate) == (kept, 0)
    again.pool.close()


def test_an_error_is_told_and_the_thread_lives_on(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()

    def fail(fresh: FreshRows) -> None:
        raise ZeroDivisionError("planted")

    with before_pass(monkeypatch, 1, fail), pytest.warns(QualityWarning, match="Healing failed: ZeroDivisionError"):
        wait_for(ask(engine), engine)
    assert ["planted" in each for each in engine.healing.errors] == [True]
    assert engine.healing.counts().failed == 1
    assert books_balance(engine.pool)
    ask(engine, 1)
    assert engine.healing.wait(WAIT)
    assert engine.healing.counts().healed == 1


def test_an_error_while_the_next_entry_is_chosen_is_told_and_the_entry_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = healing_engine()

    def fail(of_call: object) -> str:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(engine.healing, "_identity", fail)
        with pytest.warns(QualityWarning, match="Healing failed: ZeroDivisionError"):
            wait_for(ask(engine), engine)
    assert ["planted" in each for each in engine.healing.errors] == [True]
    counts = engine.healing.counts()
    assert (counts.failed, counts.waiting) == (1, 1)
    engine.healing.ask()
    assert engine.healing.wait(WAIT)
    assert engine.healing.counts().healed == 1
    assert not entry_of(engine).approximates


def test_closing_ends_the_healing() -> None:
    engine = healing_engine()
    with busy(engine):
        ask(engine)
        threading.Thread(target=engine.healing.close, daemon=True).start()
        while not engine.healing._worker.closed:
            time.sleep(0.001)
    assert engine.healing.wait(WAIT)
    assert entry_of(engine).approximates
    ask(engine, 1)
    assert engine.healing.counts().waiting == 0
