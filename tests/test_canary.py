"""Calls checked in the background against a full prefill: what is measured, counted, told and drawn from it."""

from __future__ import annotations

import gc
import json
import threading
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from semshare_core import ReusePolicy, ReuseReport, SemShareEngine
from semshare_core.config import Retention
from semshare_core.errors import ConfigError, QualityWarning
from semshare_core.quality.bounds import BOUNDS, MEASURED_TOKENS, Bound
from semshare_core.quality.canary import CanaryCounts
from semshare_core.quality.promises import Promises
from semshare_core.quality.replay import Replay
from semshare_core.report import Canary
from tiny_models import tiny_model, tiny_tokenizer
from tiny_reuse import PARAGRAPHS

pytestmark = pytest.mark.usefixtures("one_thread")

TEXT = "\n\n".join(PARAGRAPHS)
QUESTIONS = ["What is it about?", "Who wrote it?", "When does it leave?", "How much is it?"]


def reordered(question: str) -> str:
    return "\n\n".join([PARAGRAPHS[2], PARAGRAPHS[0], PARAGRAPHS[1], question])


def engine_of(model: str = "llama", **policy: Any) -> SemShareEngine:
    engine = SemShareEngine(tiny_model(model), tiny_tokenizer(), policy=ReusePolicy(**{"canary": 1.0, **policy}))
    engine.warm([TEXT])
    return engine


@contextmanager
def busy(engine: SemShareEngine) -> Iterator[None]:
    """The background gets no turn in here, but calls of ours do: a call is always on its way."""
    engine._lock._calls += 1
    try:
        yield
    finally:
        with engine._lock._changed:
            engine._lock._calls -= 1
            engine._lock._changed.notify_all()


def asked(engine: SemShareEngine, *questions: str, **settings: Any) -> list[ReuseReport]:
    """The reports of calls that are checked one after the other."""
    reports = []
    for question in questions:
        reports.append(engine.generate(reordered(question), max_new_tokens=4, store=False, **settings).report)
        assert engine.canary.wait()
    return reports


def planted(monkeypatch: pytest.MonkeyPatch, **levels: float) -> None:
    """Bounds of other heights."""
    for level, kl in levels.items():
        monkeypatch.setitem(BOUNDS, level, Bound(kl))


@pytest.fixture(autouse=True)
def _kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random models keep no promise; those of these tests do unless they plant another bound."""
    planted(monkeypatch, high=100.0, balanced=100.0, fast=100.0)


@torch.no_grad()
def measured_by_hand(
    engine: SemShareEngine, prompt: str, reuse: ReusePolicy, answer: list[int] | None
) -> tuple[float, float, int]:
    """KL and agreement along ``answer`` (None: the full prefill's own), token by token, by other means."""
    ids = engine.token_ids(prompt)
    reused = engine.prefill(prompt, reuse=reuse, store=False)
    logits, kls, agreed = reused.logits, [], []
    follow = list(answer or [])
    for step in range(len(answer[:MEASURED_TOKENS]) if answer else MEASURED_TOKENS):
        full = engine.model(torch.tensor([[*ids, *follow[:step]]]), use_cache=False).logits[0, -1].double()
        p, q = full.softmax(-1), logits.double().softmax(-1)
        kls.append(float((p * (p / q).log()).sum()))
        agreed.append(int(p.argmax()) == int(q.argmax()))
        if not answer:
            follow.append(int(p.argmax()))
        logits = engine.model(torch.tensor([[follow[step]]]), past_key_values=reused.cache).logits[0, -1]
    return sum(kls) / len(kls), sum(agreed) / len(agreed), len(kls)


# What is measured


@pytest.mark.parametrize("model", ["llama", "gemma3", "mpt"])
@pytest.mark.parametrize("way", ["generate", "stream", "prefill"])
def test_the_divergence_is_that_measured_by_hand(model: str, way: str) -> None:
    engine = engine_of(model, recompute_ratio=0.3)
    prompt, answer = reordered(QUESTIONS[0]), None
    if way == "generate":
        made = engine.generate(prompt, max_new_tokens=40, eos_token_id=[])
        answer, report = made.token_ids, made.report
    elif way == "stream":
        *_, last = engine.stream(prompt, max_new_tokens=5)
        answer, report = last.token_ids, last.report
    else:
        report = engine.prefill(prompt).report
    assert report is not None
    assert report.outcome == "semantic"
    assert engine.canary.wait()
    found = report.canary
    assert found is not None
    engine.pool.clear()
    engine.warm([TEXT])
    kl, agreement, tokens = measured_by_hand(engine, prompt, ReusePolicy(recompute_ratio=0.3), answer)
    assert kl > 1e-3, "the test would see nothing"
    assert (found.status, found.tokens) == ("measured", tokens)
    assert found.kl == pytest.approx(kl, rel=1e-2)
    assert found.agreement == pytest.approx(agreement)
    assert (found.bound, found.broken) == (None, None), "a ratio of one's own promises nothing"


def test_what_retention_drops_is_measured_too() -> None:
    policy = ReusePolicy(recompute_ratio=0.3, retention=Retention(first=0.5, floor=0.3), canary=1.0)
    engine = engine_of(recompute_ratio=0.3)
    prompt = reordered(QUESTIONS[0])
    made = engine.generate(prompt, max_new_tokens=6, reuse=policy, store=False)
    assert engine.canary.wait()
    kl, _, _ = measured_by_hand(engine, prompt, policy, made.token_ids)
    assert made.report.canary is not None
    assert made.report.canary.kl == pytest.approx(kl, rel=1e-2)
    whole = engine.generate(prompt, max_new_tokens=6, store=False)
    assert engine.canary.wait()
    assert whole.report.canary is not None
    assert whole.report.canary.kl != pytest.approx(kl, rel=1e-2)


def test_what_is_recomputed_in_full_does_not_diverge() -> None:
    engine = engine_of(recompute_ratio=1.0)
    report = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=8).report
    assert engine.canary.wait()
    assert report.canary is not None
    assert report.canary.kl == pytest.approx(0, abs=1e-6)
    assert report.canary.agreement == 1


def test_a_prompt_that_fills_the_context_is_checked_as_far_as_it_goes() -> None:
    engine = engine_of(recompute_ratio=0.3)
    engine.context = len(engine.token_ids(reordered(QUESTIONS[0]))) + 3
    report = engine.prefill(reordered(QUESTIONS[0])).report
    assert engine.canary.wait()
    assert report.canary is not None
    assert report.canary.tokens == 3


def test_approximate_rows_in_a_prefix_are_checked() -> None:
    engine = engine_of(recompute_ratio=0.3)
    engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4)
    again = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4, reuse=ReusePolicy(level="fast", canary=1.0))
    assert (again.report.outcome, again.report.depth) == ("prefix", 1)
    assert engine.canary.wait()
    assert again.report.canary is not None
    assert again.report.canary.kl > 1e-3


# Which calls


def test_every_approximate_call_is_checked_and_no_other() -> None:
    engine = engine_of(level="fast")
    reports = [engine.generate(reordered(each), max_new_tokens=4, store=False).report for each in QUESTIONS[:2]]
    reports.append(engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4, reuse="off").report)
    reports.append(engine.generate(TEXT, max_new_tokens=4, reuse="exact").report)
    assert engine.canary.wait()
    assert [each.outcome for each in reports] == ["semantic", "semantic", "bypass", "prefix"]
    assert [each.canary is not None for each in reports] == [True, True, False, False]
    assert engine.canary.results() == [each.canary for each in reports[:2]]
    # the warming call had a share of 1, too
    assert engine.canary.counts() == CanaryCounts(measured=2, unneeded=3)


def test_without_a_canary_nothing_is_checked() -> None:
    engine = engine_of(canary=0.0)
    assert engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4).report.canary is None
    assert engine.canary.counts() == CanaryCounts()
    assert engine.canary._background._jobs.thread is None


def test_the_seed_chooses_the_share() -> None:
    def chosen(seed: int) -> list[bool]:
        engine = SemShareEngine(tiny_model("llama"), tiny_tokenizer(), policy=ReusePolicy(canary=0.3, seed=seed))
        return [engine.canary.chooses(0.3, approximate=True) for _ in range(400)]

    assert chosen(1) == chosen(1) != chosen(2)
    assert 80 < sum(chosen(1)) < 160


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_is_between_none_and_all(share: float) -> None:
    with pytest.raises(ConfigError, match="canary"):
        ReusePolicy(canary=share)


# Beside other calls


def test_answers_are_the_same_while_checks_run() -> None:
    engine = engine_of(level="fast")
    prompts = [reordered(f"{number}: {question}") for number in range(3) for question in QUESTIONS]

    def answer(prompt: str) -> list[int]:
        return engine.generate(prompt, max_new_tokens=8, store=False).token_ids

    unchecked = ReusePolicy(level="fast")
    alone = [engine.generate(each, max_new_tokens=8, store=False, reuse=unchecked).token_ids for each in prompts]
    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(answer, prompts)) == alone
    assert engine.canary.wait()
    counts = engine.canary.counts()
    assert counts.measured + counts.dropped == len(prompts)
    assert counts.measured > 0
    assert not engine.canary.errors


def test_checks_wait_for_calls_and_those_beyond_the_room_are_dropped() -> None:
    engine = engine_of(level="fast")
    with busy(engine):
        reports = [engine.generate(reordered(each), max_new_tokens=4, store=False).report for each in QUESTIONS]
        assert not engine.canary.results()
        assert not engine.canary.wait(timeout=0)
        statuses = [each.canary.status for each in reports if each.canary is not None]
        # the first may run (and wait for its turn), two more wait
        assert statuses in (["pending"] * 3 + ["dropped"], ["pending"] * 2 + ["dropped"] * 2)
        dropped = statuses.count("dropped")
        assert engine.canary.counts().dropped == dropped
    assert engine.canary.wait()
    assert engine.canary.counts().measured == len(QUESTIONS) - dropped
    assert engine.canary.counts().pending == 0


def test_no_copy_is_made_for_a_check_that_would_be_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(level="fast")
    engine.canary.close()
    monkeypatch.setattr(Replay, "of", lambda *arguments: pytest.fail("copied"))
    report = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4).report
    assert report.canary is not None
    assert report.canary.status == "dropped"


def test_closing_drops_what_waits() -> None:
    engine = engine_of(level="fast")
    with busy(engine):
        reports = [engine.generate(reordered(each), max_new_tokens=4, store=False).report for each in QUESTIONS[:2]]
        closing = threading.Thread(target=engine.canary.close)
        closing.start()
    closing.join()
    assert engine.canary.wait()
    assert {each.canary.status for each in reports if each.canary is not None} <= {"dropped", "measured"}
    thread = engine.canary._background._jobs.thread
    assert thread is not None
    assert not thread.is_alive()


def test_the_thread_ends_with_the_engine_and_rows_with_the_check() -> None:
    engine = engine_of(level="fast")
    rows: list[weakref.ref[Any]] = []
    making = Replay.of

    def watched(*arguments: Any) -> Replay:
        replay = making(*arguments)
        rows.extend(weakref.ref(layer.keys) for layer in replay.cache.layers)
        rows.append(weakref.ref(replay.ids))
        return replay

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Replay, "of", watched)
        engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4, store=False)
    assert engine.canary.wait()
    gc.collect()
    assert rows
    assert not any(each() is not None for each in rows)
    thread = engine.canary._background._jobs.thread
    assert thread is not None
    del engine
    gc.collect()
    thread.join()


# What is told


def test_listeners_are_told_and_the_report_is_completed() -> None:
    engine = engine_of(level="fast")
    heard: list[Canary] = []
    end = engine.canary.listen(heard.append)
    with busy(engine):
        report = engine.generate(reordered(QUESTIONS[0]), max_new_tokens=4, store=False).report
        assert report.canary is not None
        assert (report.canary.status, report.canary.kl, report.canary.broken) == ("pending", None, None)
        assert "pending" in report._repr_html_()
    assert engine.canary.wait()
    assert heard == [report.canary]
    assert (report.canary.status, report.canary.level, report.canary.bound) == ("measured", "fast", 100.0)
    assert report.canary.broken is False
    again = ReuseReport.model_validate(json.loads(report.model_dump_json()))
    assert again.canary == report.canary
    assert f"KL {report.canary.kl:.4f}" in report._repr_html_()
    end()
    engine.generate(reordered(QUESTIONS[1]), max_new_tokens=4, store=False)
    assert engine.canary.wait()
    assert len(heard) == 1


def test_errors_in_the_background_are_recorded_and_warned_of_once(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(level="fast")

    def fails(*arguments: Any) -> None:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(Replay, "measure", fails)
        with pytest.warns(QualityWarning) as told:
            reports = asked(engine, *QUESTIONS[:2])
    assert [str(each.message).startswith("A check of the canary failed: ZeroDivisionError") for each in told] == [True]
    assert [each.canary.status for each in reports if each.canary is not None] == ["failed", "failed"]
    assert ["planted" in each for each in engine.canary.errors] == [True, True]
    assert engine.canary.counts().failed == 2
    (later,) = asked(engine, QUESTIONS[2])
    assert later.canary is not None
    assert later.canary.status == "measured"


def test_a_listener_that_fails_keeps_nothing_from_the_others() -> None:
    engine = engine_of(level="fast")
    heard: list[Canary] = []
    engine.canary.listen(lambda canary: heard.append(canary.no_such_field))  # type: ignore[attr-defined]
    engine.canary.listen(heard.append)
    with pytest.warns(QualityWarning, match="listener"):
        asked(engine, QUESTIONS[0])
    assert len(heard) == 1
    assert len(engine.canary.errors) == 1


def test_a_warning_made_an_error_does_not_end_the_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0)
    printed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", printed.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error", QualityWarning)
        asked(engine, *QUESTIONS[:3])
    assert [each.exc_type for each in printed] == [QualityWarning]
    assert engine.canary.counts().measured == 3


# What is drawn from it


def test_a_broken_promise_makes_the_level_stricter_step_by_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls of two that break a bound that one in twenty may break are evidence enough; one is not."""
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0)
    with pytest.warns(QualityWarning) as told:
        reports = asked(engine, *(f"{number}?" for number in range(7)))
    served = [(each.level, each.served_level) for each in reports]
    for report in reports[:-1]:
        assert report.canary is not None
        assert (report.canary.level, report.canary.served_level) == (report.level, report.served_level)
        assert (report.canary.bound, report.canary.broken) == (0.0, True)
    assert served == [("fast", level) for level in ["fast"] * 2 + ["balanced"] * 2 + ["high"] * 2 + ["exact"]]
    assert reports[-1].outcome in ("prefix", "miss"), "nothing stricter than exact is left"
    first, *_ = [str(each.message) for each in told]
    assert len(told) == 3
    assert "2 of 2 checked calls" in first
    assert "served at 'balanced'" in first
    assert "more than 0.0 " in first
    tallies = {(each.level, each.served_level): each for each in engine.canary.tallies()}
    assert [(each.checked, each.broken) for each in tallies.values()] == [(2, 2)] * 3
    assert tallies["fast", "fast"].max_kl == max(
        each.kl for each in engine.canary.results() if each.served_level == "fast"
    )
    (other,) = asked(engine, "other?", reuse="balanced")
    assert other.served_level == "balanced", "a promise of its own"
    engine.canary.reset()
    assert (engine.canary.tallies(), engine.canary.results()) == ([], [])
    (back,) = asked(engine, "back?")
    assert back.served_level == "fast"


def test_calls_served_before_a_level_became_stricter_do_not_make_it_stricter_again() -> None:
    promises = Promises()
    late = Canary(id="a", level="fast", served_level="fast", status="measured", kl=1.0, bound=0.15, broken=True)
    assert [promises.count(late) is not None for _ in range(4)] == [False, True, False, False]
    assert promises.served_level("fast") == "balanced"
    assert [(each.checked, each.broken) for each in promises.tallies()] == [(4, 4)]


def test_a_stricter_level_shows_in_the_notebook() -> None:
    report = ReuseReport(outcome="miss", level="fast", served_level="high", prompt_tokens=1)
    assert "fast, served at high" in report._repr_html_()


def test_a_kept_promise_changes_nothing() -> None:
    engine = engine_of(level="fast")
    asked(engine, *(f"{number}?" for number in range(5)))
    assert engine.canary.served_level("fast") == "fast"
    assert [(each.checked, each.broken) for each in engine.canary.tallies()] == [(5, 0)]


@pytest.mark.parametrize("policy", [ReusePolicy(recompute_ratio=0.3, canary=1.0), ReusePolicy.paper(canary=1.0)])
def test_policies_with_a_ratio_of_their_own_are_measured_only(
    policy: ReusePolicy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(level="fast")
    planted(monkeypatch, fast=0.0, balanced=0.0)
    for report in asked(engine, *(f"{number}?" for number in range(4)), reuse=policy):
        assert report.canary is not None
        assert (report.canary.status, report.canary.bound, report.canary.broken) == ("measured", None, None)
        assert report.served_level == report.level
    assert [(each.checked, each.broken) for each in engine.canary.tallies()] == [(4, 0)]
