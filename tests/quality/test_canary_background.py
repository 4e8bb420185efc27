"""Checks run in the background: they wait for calls, end with the engine, and tell listeners."""

from __future__ import annotations

import gc
import json
import threading
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from semshare_core import ReusePolicy, ReuseReport
from semshare_core.errors import QualityWarning
from semshare_core.quality.replay import Replay
from semshare_core.report import Canary
from tiny_canary import QUESTIONS, asked, busy, engine_of, planted, reordered

pytestmark = pytest.mark.usefixtures("one_thread", "bounds_kept")


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
    thread = engine.canary._worker._jobs.thread
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
    thread = engine.canary._worker._jobs.thread
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
